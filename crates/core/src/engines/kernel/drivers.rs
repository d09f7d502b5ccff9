//! The kernel's crypto drivers: read by NETLINK_CRYPTO or from /proc/crypto, and judged hardware or software.

use super::sys::{Errno, Socket};
use crate::sys::buffer::Output;

// linux/crypto.h
const LARVAL: u32 = 0x10;
const ASYNC: u32 = 0x80;
const TESTED: u32 = 0x400;
const KERN_DRIVER_ONLY: u32 = 0x1000;
const INTERNAL: u32 = 0x2000;

// linux/netlink.h, linux/cryptouser.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const CRYPTO_MSG_NEWALG: u16 = 0x10;
const CRYPTO_MSG_GETALG: u16 = 0x13;
const HEADER: usize = 16;
const ALGORITHM: usize = 208;
const NAME: usize = 64;

/// One registered implementation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Driver {
    /// What it computes: `cbc(aes)`.
    pub algorithm: String,
    /// Its own name: `cbc-aes-aesni`.
    pub name: String,
    /// The module that it came from; `kernel` where it is built in.
    pub module: String,
    /// The highest serves who asks for the algorithm.
    pub priority: u32,
    /// `skcipher`, `shash`, `ahash`, `aead`, `rng`, ...; `larval` while the kernel still tests it.
    pub kind: String,
    /// linux/crypto.h's CRYPTO_ALG_*; from /proc/crypto only those that it shows.
    pub flags: u32,
    /// Block size in bytes.
    pub block: u32,
    /// Smallest key in bytes.
    pub min_key: u32,
    /// Largest key in bytes.
    pub max_key: u32,
    /// IV size in bytes.
    pub iv: u32,
    /// Digest size, or an AEAD's largest tag, in bytes.
    pub digest: u32,
    /// Seed size of a random generator in bytes.
    pub seed: u32,
}

impl Driver {
    /// Whether it works off the CPU.
    ///
    /// Its flags tell only half: a driver that needs the kernel's privileges says so, but others are just
    /// asynchronous, which until Linux 6.16 the x86 and ARM drivers with vector instructions were too, and
    /// cryptd's always are. So an asynchronous driver is hardware unless its name says a CPU instruction
    /// set or a software wrapper.
    pub fn hardware(&self) -> bool {
        if self.flags & KERN_DRIVER_ONLY != 0 {
            return true;
        }
        let on_cpu = |word: &str| {
            CPU_WORDS.contains(&word) || word.starts_with("avx") || word.starts_with("vaes")
        };
        let asynchronous = self.flags & ASYNC != 0;
        asynchronous
            && !self
                .name
                .split(|c: char| !c.is_ascii_alphanumeric())
                .any(on_cpu)
    }

    /// Whether the kernel's own self-test passed.
    pub fn tested(&self) -> bool {
        self.flags & TESTED != 0
    }

    /// Whether a program may ask for it.
    pub fn usable(&self) -> bool {
        self.flags & (INTERNAL | LARVAL) == 0 && self.kind != "larval"
    }

    /// Whether it serves AF_ALG's type `hash`, `skcipher`, `aead` or `rng`.
    pub fn serves(&self, kind: &str) -> bool {
        match kind {
            "hash" => matches!(&self.kind[..], "shash" | "ahash"),
            "skcipher" => matches!(&self.kind[..], "skcipher" | "lskcipher"),
            other => self.kind == other,
        }
    }
}

/// Words in a driver's name that mean: on the CPU.
const CPU_WORDS: &[&str] = &[
    "generic", "lib", "cryptd", "pcrypt", "simd", "aesni", "asm", "i586", "x86", "sse2", "ssse3",
    "sse4", "clmulni", "pclmul", "ni", "gfni", "neon", "neonbs", "bs", "ce", "ce2", "arm64", "arm",
    "altivec", "vsx", "p8", "p10", "ppc", "s390", "riscv64", "zvkned", "octeon", "padlock",
];

/// Every driver that is registered now. Templates appear when they are first asked for.
pub fn list() -> Result<Vec<Driver>, Errno> {
    match netlink("") {
        Ok(drivers) => Ok(drivers),
        // crypto_user is not there, or answered nonsense.
        Err(_) => proc_crypto(),
    }
}

/// The drivers for one of AF_ALG's types that compute `name` or are called so, best first.
pub fn candidates(kind: &str, name: &str) -> Vec<Driver> {
    let mut all = list().unwrap_or_default();
    all.retain(|d| d.usable() && d.serves(kind) && (d.algorithm == name || d.name == name));
    all.sort_by_key(|d| (d.name != name, std::cmp::Reverse(d.priority)));
    all
}

/// Whether a driver is registered now; true where the kernel cannot be asked.
pub fn present(name: &str) -> bool {
    match netlink(name) {
        Ok(found) => !found.is_empty(),
        Err(libc::ENOENT) => false,
        Err(_) => proc_crypto().map_or(true, |all| all.iter().any(|d| d.name == name)),
    }
}

fn proc_crypto() -> Result<Vec<Driver>, Errno> {
    let text = std::fs::read("/proc/crypto").map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))?;
    Ok(parse_proc_crypto(&String::from_utf8_lossy(&text)))
}

/// /proc/crypto: blocks of `key : value` lines with empty lines between.
pub fn parse_proc_crypto(text: &str) -> Vec<Driver> {
    let mut drivers = Vec::new();
    let mut driver = Driver::default();
    for line in text.lines().chain([""]) {
        let Some((key, value)) = line.split_once(':') else {
            if !driver.name.is_empty() {
                drivers.push(std::mem::take(&mut driver));
            }
            continue;
        };
        let value = value.trim();
        let number = || value.parse().unwrap_or(0);
        let flag = |word: &str, bit: u32| if value == word { bit } else { 0 };
        match key.trim() {
            "name" => driver.algorithm = value.to_owned(),
            "driver" => driver.name = value.to_owned(),
            "module" => driver.module = value.to_owned(),
            "priority" => driver.priority = number(),
            "type" => driver.kind = value.to_owned(),
            "selftest" => driver.flags |= flag("passed", TESTED),
            "internal" => driver.flags |= flag("yes", INTERNAL),
            "async" => driver.flags |= flag("yes", ASYNC),
            "blocksize" => driver.block = number(),
            "min keysize" => driver.min_key = number(),
            "max keysize" => driver.max_key = number(),
            "ivsize" => driver.iv = number(),
            "digestsize" | "maxauthsize" => driver.digest = number(),
            "seedsize" => driver.seed = number(),
            _ => {}
        }
    }
    drivers
}

/// CRYPTO_MSG_GETALG: the driver of this name, or all of them where it is empty.
fn netlink(name: &str) -> Result<Vec<Driver>, Errno> {
    let socket = Socket::netlink()?;
    let mut request = [0u8; HEADER + ALGORITHM];
    let flags = NLM_F_REQUEST | if name.is_empty() { NLM_F_DUMP } else { 0 };
    request[..4].copy_from_slice(&((HEADER + ALGORITHM) as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&CRYPTO_MSG_GETALG.to_ne_bytes());
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    request[8..12].copy_from_slice(&1u32.to_ne_bytes());
    if name.len() >= NAME {
        return Err(libc::ENOENT);
    }
    request[HEADER + NAME..][..name.len()].copy_from_slice(name.as_bytes());
    socket.ask(&request)?;
    let mut drivers = Vec::new();
    let mut room = vec![0u8; 64 << 10];
    loop {
        let length = socket.receive(&[Output::from(&mut room)])?;
        let done = parse_netlink(&room[..length], &mut drivers)?;
        if done || !name.is_empty() {
            return Ok(drivers);
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn text(bytes: &[u8], at: usize) -> Option<String> {
    let field = bytes.get(at..at + NAME)?;
    let end = field.iter().position(|b| *b == 0).unwrap_or(NAME);
    Some(String::from_utf8_lossy(&field[..end]).into_owned())
}

/// Takes the messages of one datagram; whether the list is complete. EBADMSG where a length is wrong:
/// nothing beyond the datagram is ever looked at.
pub fn parse_netlink(datagram: &[u8], drivers: &mut Vec<Driver>) -> Result<bool, Errno> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let (Some(length), Some(kind)) = (word(rest, 0), half(rest, 4)) else {
            return Err(libc::EBADMSG);
        };
        let length = length as usize;
        if length < HEADER || length > rest.len() {
            return Err(libc::EBADMSG);
        }
        let body = &rest[HEADER..length];
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = word(body, 0).ok_or(libc::EBADMSG)? as i32;
                return match code {
                    0 => Ok(true),
                    code => Err(code
                        .checked_neg()
                        .filter(|c| *c > 0)
                        .unwrap_or(libc::EBADMSG)),
                };
            }
            CRYPTO_MSG_NEWALG | CRYPTO_MSG_GETALG => {
                drivers.push(parse_driver(body).ok_or(libc::EBADMSG)?);
            }
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(false)
}

/// A struct crypto_user_alg and its attributes.
fn parse_driver(body: &[u8]) -> Option<Driver> {
    let mut driver = Driver {
        algorithm: text(body, 0)?,
        name: text(body, NAME)?,
        module: text(body, 2 * NAME)?,
        flags: word(body, ALGORITHM - 4)?,
        ..Driver::default()
    };
    let mut rest = body.get(ALGORITHM..)?;
    while !rest.is_empty() {
        let (length, kind) = (half(rest, 0)? as usize, half(rest, 2)?);
        if length < 4 || length > rest.len() {
            return None;
        }
        let value = &rest[4..length];
        // A report begins with its type's name, and CRYPTOCFGA_REPORT_BLKCIPHER and _AEAD go on with the
        // IV generator's.
        let kind_name = || text(value, 0).filter(|name| !name.is_empty());
        match kind {
            1 => driver.priority = word(value, 0)?,
            2 => "larval".clone_into(&mut driver.kind),
            3 => {
                driver.kind = kind_name()?;
                driver.block = word(value, NAME)?;
                driver.digest = word(value, NAME + 4)?;
            }
            4 => {
                driver.kind = kind_name()?;
                driver.block = word(value, 2 * NAME)?;
                driver.min_key = word(value, 2 * NAME + 4)?;
                driver.max_key = word(value, 2 * NAME + 8)?;
                driver.iv = word(value, 2 * NAME + 12)?;
            }
            5 => {
                driver.kind = kind_name()?;
                driver.block = word(value, 2 * NAME)?;
                driver.digest = word(value, 2 * NAME + 4)?;
                driver.iv = word(value, 2 * NAME + 8)?;
            }
            7 => {
                driver.kind = kind_name()?;
                driver.seed = word(value, NAME)?;
            }
            8 => {
                driver.kind = kind_name()?;
                driver.block = word(value, NAME)?;
                driver.min_key = word(value, NAME + 4)?;
                driver.max_key = word(value, NAME + 8)?;
            }
            6 | 9..=11 => driver.kind = kind_name()?,
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Some(driver)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(name: &str, flags: u32) -> Driver {
        Driver {
            name: name.into(),
            flags,
            ..Driver::default()
        }
    }

    #[test]
    fn hardware_is_what_works_off_the_cpu() {
        for (name, flags) in [
            ("virtio_crypto_aes_cbc", 0x1_0485),
            ("cbc-aes-caam", 0x1485),
            ("stm32-cbc-aes", 0x1480),
            ("cbc-aes-qce", 0x80),
            ("safexcel-sha256", 0x1080),
            ("mv-cbc-aes", 0x1080),
            ("qat_aes_cbc", 0x480),
        ] {
            assert!(driver(name, flags).hardware(), "{name}");
        }
        for (name, flags) in [
            ("cbc-aes-aesni", 0x480),
            ("cryptd(ecb(aes-generic))", 0x480),
            ("xts-aes-vaes-avx10_256", 0x480),
            ("cbc-aes-ce", 0x480),
            ("ctr-aes-neonbs", 0x480),
            ("generic-gcm-aesni", 0x480),
            ("ghash-clmulni", 0x480),
            ("pcrypt(rfc4106(gcm(aes-generic)))", 0x480),
            ("cbc(aes-generic)", 0x400),
            ("sha256-ssse3", 0x400),
        ] {
            assert!(!driver(name, flags).hardware(), "{name}");
        }
    }

    fn newalg(attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut body = vec![0u8; ALGORITHM];
        body[..8].copy_from_slice(b"cbc(aes)");
        body[NAME..NAME + 13].copy_from_slice(b"cbc-aes-aesni");
        body[ALGORITHM - 4..].copy_from_slice(&0x485u32.to_ne_bytes());
        for (kind, value) in attributes {
            body.extend(((value.len() + 4) as u16).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(CRYPTO_MSG_NEWALG.to_ne_bytes());
        message.resize(HEADER, 0);
        message.extend(body);
        message
    }

    fn cipher() -> Vec<u8> {
        let mut report = vec![0u8; 2 * NAME];
        report[..8].copy_from_slice(b"skcipher");
        for value in [16u32, 16, 32, 16] {
            report.extend(value.to_ne_bytes());
        }
        newalg(&[(1, 400u32.to_ne_bytes().to_vec()), (4, report)])
    }

    #[test]
    fn a_driver_is_read_from_netlink() {
        let mut drivers = Vec::new();
        assert_eq!(parse_netlink(&cipher(), &mut drivers), Ok(false));
        let found = &drivers[0];
        assert_eq!(
            (
                &found.name[..],
                found.priority,
                &found.kind[..],
                found.max_key,
                found.iv
            ),
            ("cbc-aes-aesni", 400, "skcipher", 32, 16)
        );
        assert!(found.tested() && found.serves("skcipher") && !found.serves("hash"));
    }

    #[test]
    fn a_hostile_reply_is_refused_and_never_read_beyond() {
        let good = cipher();
        for cut in 1..good.len() {
            let mut short = good[..cut].to_vec();
            assert_eq!(
                parse_netlink(&short, &mut Vec::new()),
                Err(libc::EBADMSG),
                "{cut}"
            );
            if cut >= HEADER {
                short[..4].copy_from_slice(&(cut as u32).to_ne_bytes());
                let _ = parse_netlink(&short, &mut Vec::new());
            }
        }
        for length in [0u16, 1, 3, u16::MAX] {
            let mut bad = good.clone();
            bad[HEADER + ALGORITHM..][..2].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(
                parse_netlink(&bad, &mut Vec::new()),
                Err(libc::EBADMSG),
                "{length}"
            );
        }
        assert_eq!(
            parse_netlink(&newalg(&[(4, vec![0; 8])]), &mut Vec::new()),
            Err(libc::EBADMSG)
        );
    }

    #[test]
    fn proc_crypto_says_the_same() {
        let text = "name         : cbc(aes)\ndriver       : virtio_crypto_aes_cbc\nmodule       : \
                    virtio_crypto\npriority     : 150\nrefcnt       : 1\nselftest     : passed\n\
                    internal     : no\ntype         : skcipher\nasync        : yes\n\
                    blocksize    : 16\nmin keysize  : 16\nmax keysize  : 32\nivsize       : 16\n\
                    chunksize    : 16\nwalksize     : 16\n\nname         : sha1\n\
                    driver       : sha1-generic\npriority     : 100\ntype         : shash\n";
        let drivers = parse_proc_crypto(text);
        assert_eq!(drivers.len(), 2);
        assert!(drivers[0].hardware() && drivers[0].tested() && drivers[0].iv == 16);
        assert!(!drivers[1].hardware() && drivers[1].serves("hash"));
    }
}
