//! Where preferences and policy come from: files that can be trusted, and the environment.

use super::file::{self, Said};
use super::{Policy, Preferences, Wishes};
use crate::error::{Error, Kind, Result};
use crate::sys::process;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The system's file.
const SYSTEM: &str = "/etc/cryptofd/cryptofd.toml";

/// Most bytes of a file.
const MOST: u64 = 1 << 20;

/// What the variables say (all but CRYPTOFD_CONFIG, which names a file).
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// CRYPTOFD_ENGINES: preferred engines, comma-separated.
    pub engines: Option<String>,
    /// CRYPTOFD_DISABLE: disabled engines, comma-separated.
    pub disable: Option<String>,
    /// CRYPTOFD_HARDWARE: any, prefer, require, forbid.
    pub hardware: Option<String>,
    /// CRYPTOFD_FIPS: 1 for validated modules only.
    pub fips: Option<String>,
}

/// All sources, in the order in which they are laid over each other.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The system's file, which belongs to `system_owner`.
    pub system: PathBuf,
    /// The uid that the system's file has to belong to.
    pub system_owner: u32,
    /// The user's file, which belongs to `uid` or root.
    pub user: Option<PathBuf>,
    /// One more file, asked for by name, so that it has to exist.
    pub more: Option<PathBuf>,
    /// The variables.
    pub environment: Environment,
    /// The user.
    pub uid: u32,
}

/// What tells that a file is another one than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(Option<[i64; 9]>);

impl Stamp {
    fn of(path: &Path) -> Stamp {
        Stamp(fs::metadata(path).ok().map(|m| {
            [
                m.dev() as i64,
                m.ino() as i64,
                m.mtime(),
                m.mtime_nsec(),
                m.ctime(),
                m.ctime_nsec(),
                m.size() as i64,
                m.mode().into(),
                m.uid().into(),
            ]
        }))
    }
}

impl Sources {
    /// Those of this process.
    pub fn of_this_process() -> Sources {
        let mut sources = Sources {
            system: SYSTEM.into(),
            system_owner: 0,
            uid: process::effective_uid(),
            ..Sources::default()
        };
        // Whoever starts a set-uid program shall not choose for it.
        if process::is_privileged() {
            return sources;
        }
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        sources.user = variable("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".config")))
            .map(|directory| directory.join("cryptofd/cryptofd.toml"));
        sources.environment = Environment {
            engines: variable("CRYPTOFD_ENGINES"),
            disable: variable("CRYPTOFD_DISABLE"),
            hardware: variable("CRYPTOFD_HARDWARE"),
            fips: variable("CRYPTOFD_FIPS"),
        };
        sources.more = variable("CRYPTOFD_CONFIG").map(PathBuf::from);
        // Where an administrator has written something down, no variable takes it away.
        let absent = fs::symlink_metadata(SYSTEM)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        if let (true, Some(path)) = (absent, variable("CRYPTOFD_SYSTEM_CONFIG")) {
            sources.system = path.into();
            sources.system_owner = sources.uid;
        }
        sources
    }

    /// The files as they are now.
    pub fn stamps(&self) -> Vec<Stamp> {
        [Some(&self.system), self.user.as_ref(), self.more.as_ref()]
            .into_iter()
            .flatten()
            .map(|path| Stamp::of(path))
            .collect()
    }

    /// Reads them all and lays them over each other.
    pub fn load(&self) -> Result<Preferences> {
        let mut preferences = Preferences::default();
        let system = Trust {
            owners: &[0, self.system_owner],
            ..Trust::default()
        };
        let own = [0, self.uid];
        let user = Trust {
            owners: &own,
            elsewhere: true,
            ..Trust::default()
        };
        let more = Trust {
            owners: &own,
            needed: true,
            ..Trust::default()
        };
        let files = [
            (Some(&self.system), system),
            (self.user.as_ref(), user),
            (self.more.as_ref(), more),
        ];
        for (path, trust) in files {
            if let Some(path) = path {
                if let Some(text) = trust.read(path)? {
                    preferences.add(file::parse(&path.display().to_string(), &text)?);
                }
            }
        }
        preferences.add(self.environment.said()?);
        Ok(preferences)
    }
}

impl Environment {
    fn said(&self) -> Result<Said> {
        let list = |name: &str, value: &Option<String>| {
            let words = value.as_ref().map(|value| {
                let words = value.split(',').map(str::trim);
                words
                    .filter(|word| !word.is_empty())
                    .map(str::to_owned)
                    .collect()
            });
            file::engine_names("the environment", name, words)
        };
        let fips = match self.fips.as_deref() {
            None | Some("0") => false,
            Some("1") => true,
            Some(other) => {
                return Err(Error::invalid(format!("CRYPTOFD_FIPS={other}: 0 or 1")));
            }
        };
        Ok(Said {
            wishes: Wishes {
                prefer: list("CRYPTOFD_ENGINES", &self.engines)?,
                disable: list("CRYPTOFD_DISABLE", &self.disable)?,
            },
            hardware: file::word(
                "the environment",
                "CRYPTOFD_HARDWARE",
                self.hardware.clone(),
            )?,
            per_algorithm: Vec::new(),
            policy: Policy {
                source: "CRYPTOFD_FIPS".into(),
                fips,
                ..Policy::default()
            },
        })
    }
}

/// The text of a file that these may have written and nobody else; `None` where there is none.
pub fn trusted(path: &Path, owners: &[u32]) -> Result<Option<String>> {
    let trust = Trust {
        owners,
        elsewhere: true,
        ..Trust::default()
    };
    trust.read(path)
}

/// Whose a file has to be, and what it means that it is not there.
#[derive(Clone, Copy, Default)]
struct Trust<'a> {
    owners: &'a [u32],
    needed: bool,
    /// Whether a directory that this process may not enter makes it another's file (HOME of who started
    /// us, after a change of uid), which is then not ours to read.
    elsewhere: bool,
}

impl Trust<'_> {
    /// The text; `None` where there is no file and none is needed.
    fn read(&self, path: &Path) -> Result<Option<String>> {
        let named = path.display();
        if !path.is_absolute() {
            return Err(Error::invalid(format!(
                "{named}: an absolute path is needed"
            )));
        }
        let opened = OpenOptions::new()
            .read(true)
            // A FIFO must not hold us up.
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                let absent = matches!(errno, libc::ENOENT | libc::ENOTDIR)
                    || (self.elsewhere && errno == libc::EACCES && fs::metadata(path).is_err());
                if absent && !self.needed {
                    return Ok(None);
                }
                return Err(Error::system(
                    errno,
                    &format!("{named} cannot be read, so nothing opens"),
                ));
            }
        };
        let what = |error: std::io::Error| {
            Error::system(
                error.raw_os_error().unwrap_or(libc::EIO),
                &named.to_string(),
            )
        };
        self.check(path, &file.metadata().map_err(what)?)?;
        text(file, path).map(Some)
    }

    /// EPERM for a file that others could have written.
    fn check(&self, path: &Path, about: &Metadata) -> Result<()> {
        let named = path.display();
        if !about.is_file() {
            return Err(Error::refused(format!("{named} is not a regular file")));
        }
        if !self.owners.contains(&about.uid()) {
            let owners: Vec<_> = self.owners.iter().map(u32::to_string).collect();
            return Err(Error::refused(format!(
                "{named} belongs to uid {}: it is trusted only from uid {} (chown it, or remove it)",
                about.uid(),
                owners.join(" or ")
            )));
        }
        if about.mode() & 0o022 != 0 {
            return Err(Error::refused(format!(
                "{named} (mode {:04o}) can be written by others than its owner: chmod go-w {named}",
                about.mode() & 0o7777
            )));
        }
        Ok(())
    }
}

fn text(file: File, path: &Path) -> Result<String> {
    let named = path.display();
    let mut bytes = Vec::new();
    file.take(MOST + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| {
            Error::system(
                error.raw_os_error().unwrap_or(libc::EIO),
                &named.to_string(),
            )
        })?;
    if bytes.len() as u64 > MOST {
        return Err(Error::new(
            Kind::TooLarge,
            libc::EFBIG,
            format!("{named} is larger than {MOST} bytes"),
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let whole = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = whole.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::invalid(format!("{named}, line {line}: not UTF-8"))
    })
}
