//! A Rust caller of the kernel engine for bench/: does as many operations as each line of input says, and
//! answers with the nanoseconds that they took. Arguments: an algorithm, bytes.

use cryptofd_core::engine::{Direction, Key};
use cryptofd_core::secret::Secret;
use cryptofd_core::session::{Request, Session};
use cryptofd_core::sys::buffer::{Input, Output};
use std::io::BufRead;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(algorithm), Some(size)) = (arguments.next(), arguments.next()) else {
        return Err("an algorithm, bytes".into());
    };
    let hash = algorithm == "sha256";
    let key: Vec<u8> = (0..32).collect();
    let session = Session::open(Request {
        algorithm,
        engine: Some("kernel".into()),
        key: if hash {
            Key::None
        } else {
            Key::Bytes(Secret::new(&key))
        },
        ..Request::default()
    })?;
    let data = vec![0u8; size.parse()?];
    let mut out = vec![0u8; if hash { 32 } else { data.len() }];
    for line in std::io::stdin().lock().lines() {
        let times: u64 = line?.trim().parse()?;
        let start = Instant::now();
        for _ in 0..times {
            if hash {
                session.digest(Input::from(&data[..]), &mut out)?;
            } else {
                let (input, output) = (Input::from(&data[..]), Output::from(&mut out[..]));
                session.crypt(Direction::Encrypt, &[0; 16], input, output)?;
            }
        }
        println!("{}", start.elapsed().as_nanos());
    }
    Ok(())
}
