//! Records: round trips, every truncation, every byte changed, and the one source of numbers.

use super::*;

/// The whole packet of `request` under `id`.
fn packet(id: u64, request: &Request<'_>, attached: u64, attached_aad: u64) -> Vec<u8> {
    let params = request.params.encode();
    let inline = attached == 0;
    let (aad, data) = (request.aad.to_vec(), request.data.to_vec());
    let header = Header {
        op: request.op as u16,
        flags: request.flags | if inline { 0 } else { FLAG_ATTACHED },
        id,
        iv: request.iv.len() as u32,
        aad: aad.len() as u32,
        params: params.len() as u32,
        data: data.len() as u32,
        attached,
        attached_aad,
        ..Header::default()
    };
    [&header.request()[..], request.iv, &aad, &params, &data].concat()
}

fn samples() -> Vec<Vec<u8>> {
    let seal = Request {
        iv: &[1; 12],
        aad: Input::from(b"header"),
        ..Request::with(Op::Encrypt, b"payload")
    };
    let derive = Request {
        params: Params {
            length: Some(42),
            salt: Some(b"salt"),
            info: Some(b""),
            iterations: Some(1000),
            n: Some(1 << 14),
            r: Some(8),
            p: Some(1),
            ..Params::default()
        },
        ..Request::new(Op::Derive)
    };
    let verify = Request {
        flags: FLAG_RUNNING,
        params: Params {
            tag: Some(&[7; 16]),
            ..Params::default()
        },
        ..Request::with(Op::Verify, b"abc")
    };
    let begin = Request {
        iv: &[3; 16],
        params: Params {
            direction: Some(Direction::Decrypt),
            ..Params::default()
        },
        ..Request::new(Op::StreamBegin)
    };
    let cancel = Request {
        params: Params {
            target: Some(u64::MAX),
            ..Params::default()
        },
        ..Request::new(Op::Cancel)
    };
    let large = Request {
        iv: &[1; 12],
        ..Request::new(Op::Encrypt)
    };
    vec![
        packet(1, &seal, 0, 0),
        packet(2, &derive, 0, 0),
        packet(3, &verify, 0, 0),
        packet(4, &begin, 0, 0),
        packet(5, &cancel, 0, 0),
        packet(6, &large, 1 << 20, 13),
        packet(7, &Request::new(Op::Info), 0, 0),
    ]
}

fn answer(status: u32, data: &[u8]) -> Vec<u8> {
    let header = Header {
        op: Op::Digest as u16,
        id: 9,
        status,
        data: data.len() as u32,
        ..Header::default()
    };
    [&header.answer()[..], data].concat()
}

#[test]
fn requests_go_round() {
    let all = samples();
    let seal = Incoming::parse(&all[0]).unwrap();
    assert_eq!((seal.id, seal.op), (1, Op::Encrypt));
    assert_eq!(
        (seal.iv, seal.aad, seal.data),
        (&[1; 12][..], &b"header"[..], &b"payload"[..])
    );
    let derive = Incoming::parse(&all[1]).unwrap();
    assert_eq!(
        derive.params,
        Params {
            length: Some(42),
            salt: Some(b"salt"),
            info: Some(b""),
            iterations: Some(1000),
            n: Some(1 << 14),
            r: Some(8),
            p: Some(1),
            ..Params::default()
        }
    );
    let verify = Incoming::parse(&all[2]).unwrap();
    assert_eq!(
        (verify.flags, verify.params.tag),
        (FLAG_RUNNING, Some(&[7; 16][..]))
    );
    let begin = Incoming::parse(&all[3]).unwrap();
    assert_eq!(begin.params.direction, Some(Direction::Decrypt));
    assert_eq!(
        Incoming::parse(&all[4]).unwrap().params.target,
        Some(u64::MAX)
    );
    let large = Incoming::parse(&all[5]).unwrap();
    assert_eq!((large.attached, large.attached_aad), (1 << 20, 13));
    Incoming::parse(&all[6]).unwrap();
}

#[test]
fn answers_go_round() {
    let bytes = answer(0, b"digest");
    let parsed = Answer::parse(&bytes).unwrap();
    assert_eq!(
        (parsed.id, parsed.status, parsed.data),
        (9, 0, &b"digest"[..])
    );
    let bytes = answer(libc::EBADMSG as u32, b"no");
    assert_eq!(Answer::parse(&bytes).unwrap().status, libc::EBADMSG);
    assert_eq!(
        Answer::parse(&answer(4096, b"")).unwrap_err().errno(),
        libc::EPROTO
    );
    // A request is no answer, and the other way round.
    assert!(Answer::parse(&samples()[6]).is_err());
    assert!(Incoming::parse(&answer(0, b"")).is_err());
}

#[test]
fn every_truncation_and_every_addition_is_refused() {
    for whole in samples() {
        for length in 0..whole.len() {
            assert!(Incoming::parse(&whole[..length]).is_err(), "{length}");
        }
        let mut more = whole.clone();
        more.push(0);
        assert!(Incoming::parse(&more).is_err());
    }
    let whole = answer(0, b"digest");
    for length in 0..whole.len() {
        assert!(Answer::parse(&whole[..length]).is_err(), "{length}");
    }
}

/// What every single byte of a header may become without being refused, for ENCRYPT with iv, aad and data:
/// the op of another request with those sections, the id, the epoch, and nothing else.
#[test]
fn every_field_changed_is_seen() {
    let whole = &samples()[0];
    for at in 0..HEADER {
        for value in 0..=255u8 {
            let mut changed = whole.clone();
            if changed[at] == value {
                continue;
            }
            changed[at] = value;
            let parsed = Incoming::parse(&changed);
            match at {
                4 => assert_eq!(parsed.is_ok(), value == Op::Decrypt as u8, "op {value}"),
                // The id and the epoch.
                8..20 => assert!(parsed.is_ok()),
                _ => assert!(parsed.is_err(), "byte {at} = {value}"),
            }
        }
    }
}

#[test]
fn lengths_of_four_gigabytes_are_refused() {
    for field in [24, 28, 32, 36] {
        for value in [u32::MAX, u32::MAX - 63, 1 << 31] {
            let mut changed = samples()[0].clone();
            changed[field..field + 4].copy_from_slice(&value.to_le_bytes());
            assert_eq!(Incoming::parse(&changed).unwrap_err().errno(), libc::EINVAL);
        }
    }
    for (attached, aad, errno) in [
        (u64::MAX, 0, libc::EMSGSIZE),
        (u64::MAX, u64::MAX, libc::EMSGSIZE),
        (0, 0, libc::EINVAL),
        (1, 2, libc::EINVAL),
        (ATTACHED as u64 + 1, 0, libc::EMSGSIZE),
    ] {
        let mut changed = samples()[5].clone();
        changed[40..48].copy_from_slice(&attached.to_le_bytes());
        changed[48..56].copy_from_slice(&aad.to_le_bytes());
        assert_eq!(Incoming::parse(&changed).unwrap_err().errno(), errno);
    }
    // Params that speak of more than they have.
    let mut changed = samples()[1].clone();
    changed[HEADER + 4..HEADER + 8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Incoming::parse(&changed).unwrap_err().errno(), libc::EINVAL);
}

#[test]
fn versions_and_longer_headers() {
    let with = |at: usize, value: u8| {
        let mut changed = samples()[6].clone();
        changed[at] = value;
        changed
    };
    let errno = |bytes: &[u8]| Incoming::parse(bytes).unwrap_err().errno();
    assert_eq!(errno(&with(2, 2)), libc::EPROTONOSUPPORT);
    assert_eq!(errno(&with(2, 0)), libc::EPROTONOSUPPORT);
    assert_eq!(errno(&with(3, 2)), libc::EINVAL);
    assert_eq!(errno(&with(4, 99)), libc::EOPNOTSUPP);
    // A longer header whose rest is zero means the same; with something in it, it means something unknown.
    let mut longer = with(0, 72);
    longer.extend_from_slice(&[0; 8]);
    Incoming::parse(&longer).unwrap();
    longer[70] = 1;
    assert_eq!(errno(&longer), libc::E2BIG);
    let mut odd = with(0, 65);
    odd.push(0);
    assert_eq!(errno(&odd), libc::EINVAL);
    assert_eq!(
        errno(&[with(0, 0), vec![0; RECORD]].concat()),
        libc::EMSGSIZE
    );
}

#[test]
fn an_op_takes_its_own_sections_and_parameters_only() {
    for (op, name) in Op::ALL {
        let takes = op.takes();
        let full = Request {
            iv: &[1],
            ..Request::new(op)
        };
        assert_eq!(
            Incoming::parse(&packet(1, &full, 0, 0)).is_ok(),
            takes.iv,
            "{name}"
        );
        let full = Request {
            aad: Input::from(b"a"),
            ..Request::new(op)
        };
        assert_eq!(
            Incoming::parse(&packet(1, &full, 0, 0)).is_ok(),
            takes.aad,
            "{name}"
        );
        let full = Request::with(op, b"d");
        assert_eq!(
            Incoming::parse(&packet(1, &full, 0, 0)).is_ok(),
            takes.data,
            "{name}"
        );
        let full = Request::new(op);
        assert_eq!(
            Incoming::parse(&packet(1, &full, 5, 0)).is_ok(),
            takes.data,
            "{name}"
        );
        assert_eq!(
            Incoming::parse(&packet(1, &full, 5, 5)).is_ok(),
            takes.aad,
            "{name}"
        );
        for (param, number) in Params::ALL {
            let value: &[u8] = match number {
                Params::LENGTH | Params::N | Params::TARGET => &[1, 0, 0, 0, 0, 0, 0, 0],
                Params::HASH | Params::SCHEME | Params::FORMAT => b"name",
                _ => &[1, 0, 0, 0],
            };
            let one = [
                &number.to_le_bytes()[..],
                &[0, 0],
                &(value.len() as u32).to_le_bytes(),
                value,
            ]
            .concat();
            let send = |params: &[u8]| {
                let header = Header {
                    op: op as u16,
                    params: params.len() as u32,
                    ..Header::default()
                };
                Incoming::parse(&[&header.request()[..], params].concat()).is_ok()
            };
            assert_eq!(send(&one), takes.params.contains(&number), "{name} {param}");
            assert!(!send(&[one.clone(), one].concat()), "{name} {param} twice");
        }
    }
}

#[test]
fn an_error_goes_round_without_control_characters() {
    let sent = Error::invalid("iv of 11 bytes: 12 are needed");
    let back = error(sent.errno(), message(&sent));
    assert_eq!((back.kind(), back.errno()), (sent.kind(), sent.errno()));
    assert_eq!(back.message(), sent.message());
    assert_eq!(error(libc::EIO, b"\x1b[2Jgone\n").message(), " [2Jgone ");
    let long = Error::invalid("ä".repeat(2000));
    assert_eq!(message(&long).len(), MESSAGE);
    assert!(std::str::from_utf8(message(&long)).is_ok());
    assert!(!error(libc::EIO, b"").message().is_empty());
    assert_eq!(error(libc::EINVAL, &[0xff; 5000]).errno(), libc::EINVAL);
}

#[test]
fn the_numbers_are_those_of_the_interface() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../interface/record.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let table: toml::Table = text.parse().unwrap();
    let number = |section: &str, name: &str| table[section][name].as_integer().unwrap() as usize;
    assert_eq!(table["version"].as_integer().unwrap(), i64::from(VERSION));
    assert_eq!(table["header_size"].as_integer().unwrap(), HEADER as i64);
    assert_eq!(
        table["header_size_max"].as_integer().unwrap(),
        HEADER_MAX as i64
    );
    let limits = [
        ("inline", INLINE),
        ("record", RECORD),
        ("attached", ATTACHED),
        ("in_flight", crate::serve::IN_FLIGHT),
        ("descriptors", crate::serve::DESCRIPTORS),
        ("iterations", crate::serve::ITERATIONS as usize),
        ("memory", crate::serve::MEMORY as usize),
        ("message", MESSAGE),
    ];
    assert_eq!(table["limits"].as_table().unwrap().len(), limits.len());
    for (name, value) in limits {
        assert_eq!(number("limits", name), value, "{name}");
    }
    let fields = table["field"].as_array().unwrap();
    assert_eq!(fields.len(), FIELDS.len());
    for (field, (name, offset, bytes)) in fields.iter().zip(FIELDS) {
        assert_eq!(field["name"].as_str(), Some(name));
        assert_eq!(field["offset"].as_integer(), Some(offset as i64), "{name}");
        assert_eq!(field["bytes"].as_integer(), Some(bytes as i64), "{name}");
    }
    assert_eq!(table["op"].as_table().unwrap().len(), Op::ALL.len());
    for (op, name) in Op::ALL {
        assert_eq!(number("op", name), op as usize, "{name}");
        assert_eq!(Op::from_number(op as u16), Some(op));
        assert_eq!(Op::from_name(&name.to_lowercase()), Some(op));
    }
    assert_eq!(table["param"].as_table().unwrap().len(), Params::ALL.len());
    for (name, value) in Params::ALL {
        assert_eq!(number("param", name), usize::from(value), "{name}");
    }
    assert_eq!(number("flag", "ATTACHED"), usize::from(FLAG_ATTACHED));
    assert_eq!(number("flag", "RUNNING"), usize::from(FLAG_RUNNING));
    assert_eq!(number("kind", "REQUEST"), usize::from(REQUEST));
    assert_eq!(number("kind", "ANSWER"), usize::from(ANSWER));
    assert_eq!(number("kind", "EPOCH"), usize::from(EPOCH));
    assert_eq!(number("kind", "BELL"), usize::from(BELL));
    for (name, value) in [
        ("magic", crate::ring::MAGIC as usize),
        ("version", crate::ring::VERSION as usize),
        ("entries", crate::ring::ENTRIES as usize),
        ("submission", crate::ring::SUBMISSION),
        ("completion", crate::ring::COMPLETION),
        ("least", crate::ring::LEAST),
        ("most", crate::ring::MOST),
    ] {
        assert_eq!(number("ring", name), value, "{name}");
    }
    for (section, fields) in [
        ("ring_field", &crate::ring::FIELDS[..]),
        ("ring_submission", &crate::ring::SUBMISSION_FIELDS),
        ("ring_completion", &crate::ring::COMPLETION_FIELDS),
    ] {
        let table = table[section].as_array().unwrap();
        assert_eq!(table.len(), fields.len());
        for (field, (name, offset, bytes)) in table.iter().zip(fields) {
            assert_eq!(field["name"].as_str(), Some(*name));
            assert_eq!(field["offset"].as_integer(), Some(*offset as i64), "{name}");
            assert_eq!(field["bytes"].as_integer(), Some(*bytes as i64), "{name}");
        }
    }
}

#[test]
fn an_epoch_is_announced_and_nothing_else_with_it() {
    let record = Header::announcement(7);
    assert_eq!(announced(&record).unwrap().unwrap(), 7);
    assert!(announced(&Header::default().request()).is_none());
    assert!(announced(&[]).is_none());
    assert!(announced(&Header::announcement(0)).unwrap().is_err());
    for at in (4..16).chain(20..HEADER) {
        let mut broken = record;
        broken[at] ^= 1;
        assert!(announced(&broken).unwrap().is_err(), "{at}");
    }
    let longer = [&record[..], &[0]].concat();
    assert!(announced(&longer).unwrap().is_err());
    let mut request = Header::default().request();
    set_epoch(&mut request, 9);
    assert_eq!(epoch(&request), 9);
}

/// The table of fields is what the header writes.
#[test]
fn the_fields_are_where_the_table_says() {
    let header = Header {
        op: 0x0504,
        flags: 0x0706,
        id: 0x0f0e_0d0c_0b0a_0908,
        epoch: 0x1312_1110,
        status: 0x1716_1514,
        iv: 0x1b1a_1918,
        aad: 0x1f1e_1d1c,
        params: 0x2322_2120,
        data: 0x2726_2524,
        attached: 0x2f2e_2d2c_2b2a_2928,
        attached_aad: 0x3736_3534_3332_3130,
    };
    let bytes = header.answer();
    for (name, offset, size) in FIELDS {
        let field = &bytes[offset..offset + size];
        match name {
            "size" => assert_eq!(field, [64, 0]),
            "version" => assert_eq!(field, [VERSION]),
            "kind" => assert_eq!(field, [ANSWER]),
            "reserved" => assert!(field.iter().all(|b| *b == 0)),
            _ => {
                let expected: Vec<u8> = (offset..offset + size).map(|at| at as u8).collect();
                assert_eq!(field, expected, "{name}");
            }
        }
    }
}
