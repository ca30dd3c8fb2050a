//! The control plane's directory: what is in it, who may read it, how it is made.
//!
//! | file | holds |
//! |---|---|
//! | `control.toml` | settings; written last by `init`, so its presence means the directory is whole |
//! | `root.key`, `root.pem` | the root of the trust domain |
//! | `control.pem` | the control plane's own key and certificate, renewed by `serve` |
//! | `store.redb` | tokens (hashed), policy history, issued certificates, known agents |
//! | `operator.token` | the first operator's token, for `hearth --dir`; may be moved elsewhere |
//! | `listening` | the address bound, while `serve` runs |
//!
//! Everything is for its owner only. Never repairs permissions silently: a key that others could read
//! may have been read.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hearth_proto::ids::TrustDomain;
use hearth_proto::settings::SettingsError;
use hearth_proto::time::Wall;

use crate::authority::{Authority, AuthorityError, new_root};
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::keyring::{Own, UnusableIdentity};
use crate::moment;
use crate::store::{Embedded, OperatorRecord, Store, StoreError};
use crate::token::{self, NoRandom};

/// The operator whose token `init` prints.
pub const FIRST_OPERATOR: &str = "admin";

/// Why the directory cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// `init` would overwrite something.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// `init` was run there before.
    #[error("{} holds a control plane already (trust domain {domain})", .path.display())]
    Exists {
        /// Where.
        path: PathBuf,
        /// Its trust domain.
        domain: String,
    },
    /// There is no control plane there.
    #[error("{} holds no control plane (there is no control.toml)", .0.display())]
    NotInitialised(PathBuf),
    /// Others could read or change what is there.
    #[error("{} is open to others (mode {mode:04o})", .path.display())]
    OpenToOthers {
        /// Which path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error("{} belongs to user id {owner}, this process runs as {us}", .path.display())]
    OtherOwner {
        /// Which path.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// Reading or writing failed.
    #[error("cannot {what} {}: {error}", .path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Which path.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The settings are wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The settings contradict the root.
    #[error("control.toml says trust domain {configured}, root.pem is of {root}")]
    OtherDomain {
        /// What is configured.
        configured: TrustDomain,
        /// What the root says.
        root: TrustDomain,
    },
    /// The clock is wrong, or the root has ended.
    #[error(
        "this host's clock says {}, the root certificate is valid from {} until {}",
        moment::utc(*.now), moment::utc(*.from), moment::utc(*.until)
    )]
    Clock {
        /// What the clock says.
        now: Wall,
        /// Start of the root's validity.
        from: Wall,
        /// Its end.
        until: Wall,
    },
    /// The authority cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The control certificate cannot be used.
    #[error(transparent)]
    Identity(#[from] UnusableIdentity),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No secret could be drawn.
    #[error(transparent)]
    Random(#[from] NoRandom),
}

impl From<DirectoryError> for Failure {
    fn from(e: DirectoryError) -> Self {
        use DirectoryError as E;
        let (exit, hint) = match &e {
            E::NotEmpty(_) => (
                Exit::CannotCreate,
                "give a new or empty directory; if an earlier init was interrupted there, remove its \
                 files first"
                    .to_owned(),
            ),
            E::Exists { path: dir, .. } => (
                Exit::CannotCreate,
                format!(
                    "start it with: hearth-control serve --dir {0}; a new mesh needs another directory",
                    dir.display()
                ),
            ),
            E::NotInitialised(dir) => (
                Exit::Config,
                format!(
                    "make one with: hearth-control init --dir {} --trust-domain NAME",
                    dir.display()
                ),
            ),
            E::OpenToOthers { path, .. } => (
                Exit::Config,
                format!(
                    "its keys may have been read: check who had access, then chmod go-rwx {}",
                    path.display()
                ),
            ),
            E::OtherOwner { path, .. } => (
                Exit::NoPermission,
                format!("run as that user, or chown -R the directory of {}", path.display()),
            ),
            E::Io { what: "read", path, error } if error.kind() == io::ErrorKind::NotFound => (
                Exit::Config,
                format!("restore {} from backup", path.display()),
            ),
            E::Io { path, error, .. } => return io_failure(&e, path, error),
            E::Settings(_) => (Exit::Config, String::new()),
            E::OtherDomain { root, .. } => (
                Exit::Config,
                format!("set trust_domain = \"{root}\"; a new trust domain is a new init elsewhere"),
            ),
            E::Clock { .. } => (
                Exit::Temporary,
                "set the clock (timedatectl), then start again; if it is right, the root has ended: \
                 only a new mesh helps"
                    .to_owned(),
            ),
            E::Authority(AuthorityError::Address(_)) => {
                (Exit::Usage, "write for example --address 192.0.2.2 or control.example".to_owned())
            }
            E::Authority(_) => (Exit::Config, "restore root.key and root.pem from backup".to_owned()),
            E::Identity(_) => (
                Exit::Config,
                "remove control.pem: serve makes a new one from the root".to_owned(),
            ),
            E::Store(store) => return store_failure(store),
            E::Random(_) => (Exit::Temporary, "try again".to_owned()),
        };
        Failure::new(exit, e, hint)
    }
}

fn io_failure(e: &DirectoryError, path: &Path, error: &io::Error) -> Failure {
    let parent = path.parent().unwrap_or(path).display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::new(
            Exit::NoPermission,
            e,
            format!(
                "run as the user that owns {parent} (installed: runuser -u hearth-control -- …)"
            ),
        ),
        io::ErrorKind::NotFound => {
            Failure::new(Exit::CannotCreate, e, format!("make {parent} first, or check the path"))
        }
        io::ErrorKind::StorageFull => Failure::new(Exit::Io, e, "free some space on that disk"),
        _ => Failure::new(Exit::Io, e, "check the disk and the path"),
    }
}

/// What to say when the store cannot be used.
pub fn store_failure(e: &StoreError) -> Failure {
    match e {
        StoreError::Locked(_) => Failure::new(
            Exit::Temporary,
            e,
            "hearth-control serve is running on it; use the API (hearth token create NODE), or stop it \
             first",
        ),
        StoreError::Missing(path) => Failure::new(
            Exit::Config,
            e,
            format!(
                "restore it from backup; without one, hearth-control operator --dir {} makes an empty \
                 one: nodes go on, join tokens and the policy's history are lost",
                path.parent().unwrap_or(path).display()
            ),
        ),
        StoreError::Moved(_) => Failure::new(
            Exit::Io,
            e,
            "put it back, or restart hearth-control on what is there now; nothing was changed",
        ),
        StoreError::Open { .. } | StoreError::Unreadable(..) => {
            Failure::new(Exit::Io, e, "restore store.redb from backup, and keep the damaged file")
        }
        StoreError::Failed(_) | StoreError::NotNewer { .. } => {
            Failure::new(Exit::Io, e, "check the disk; nothing was changed")
        }
    }
}

fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DirectoryError + 'a {
    move |error| DirectoryError::Io { what, path: path.to_owned(), error }
}

/// A directory that `init` has made.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

/// What `init` made, to be told once.
pub struct Made {
    /// The directory.
    pub directory: Directory,
    /// The first operator's token.
    pub operator_token: String,
}

/// The directory's content in use.
pub struct Opened {
    /// Settings.
    pub config: Config,
    /// The authority.
    pub authority: Authority,
    /// Our own identity.
    pub own: Own,
}

impl Directory {
    /// Makes a control plane in `path`, which must be absent or empty.
    pub fn init(path: &Path, config: &Config) -> Result<Made, DirectoryError> {
        let addresses = config.addresses()?;
        let directory = Self { path: path.to_owned() };
        directory.claim()?;
        let now = moment::now();
        let (root_key, root_pem) = new_root(&config.trust_domain, now)?;
        let authority = Authority::open(&root_key, &root_pem, config.certificate_life.0)?;
        let own = authority.issue_control(&config.name, &addresses, now)?;
        directory.write("root.key", root_key.as_bytes())?;
        directory.write("root.pem", root_pem.as_bytes())?;
        directory.write("control.pem", (own.key_pem + &own.certificate.pem).as_bytes())?;
        let operator_token = directory.new_operator(FIRST_OPERATOR, now)?;
        directory.write("control.toml", config.render().as_bytes())?;
        Ok(Made { directory, operator_token })
    }

    /// Makes an operator's token; one of the same name ends. Makes the store if there is none.
    pub fn new_operator(&self, name: &str, now: Wall) -> Result<String, DirectoryError> {
        let (text, hash) = token::new_operator_token()?;
        let store = Embedded::open(&self.file("store.redb"))?;
        let (name, hash) = (name.to_owned(), hash.hex());
        let first = name == FIRST_OPERATOR;
        store.add_operator(&OperatorRecord { name, hash, created: now })?;
        self.give_to_owner(&self.file("store.redb"))?;
        if first {
            self.write("operator.token", format!("{text}\n").as_bytes())?;
        }
        Ok(text)
    }

    /// Takes the directory for a new control plane.
    fn claim(&self) -> Result<(), DirectoryError> {
        match fs::read_dir(&self.path) {
            Ok(mut entries) => {
                if let Ok(text) = fs::read_to_string(self.file("control.toml")) {
                    let domain = Config::parse("control.toml", &text)
                        .map_or_else(|_| "unknown".to_owned(), |c| c.trust_domain.to_string());
                    return Err(DirectoryError::Exists { path: self.path.clone(), domain });
                }
                if entries.next().is_some() {
                    return Err(DirectoryError::NotEmpty(self.path.clone()));
                }
                self.check_private(&self.path)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().mode(0o700).create(&self.path).map_err(io("make", &self.path))
            }
            Err(e) => Err(io("read", &self.path)(e)),
        }
    }

    /// Finds a control plane in `path`.
    pub fn find(path: &Path) -> Result<Self, DirectoryError> {
        let directory = Self { path: path.to_owned() };
        match fs::metadata(directory.file("control.toml")) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(DirectoryError::NotInitialised(path.to_owned()));
            }
            Err(e) => return Err(io("read", &directory.file("control.toml"))(e)),
        }
        directory.check_private(path)?;
        Ok(directory)
    }

    fn check_private(&self, path: &Path) -> Result<(), DirectoryError> {
        let metadata = fs::metadata(path).map_err(io("read", path))?;
        let us = fs::metadata("/proc/self").map_or(metadata.uid(), |m| m.uid());
        // Root may look after a directory of the service's user.
        if metadata.uid() != us && us != 0 {
            let owner = metadata.uid();
            return Err(DirectoryError::OtherOwner { path: path.to_owned(), owner, us });
        }
        match metadata.permissions().mode() & 0o7777 {
            mode if mode & 0o077 != 0 => {
                Err(DirectoryError::OpenToOthers { path: path.to_owned(), mode })
            }
            _ => Ok(()),
        }
    }

    /// A file in the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What root makes in the directory of the service's user is that user's: an init or a token made
    /// with sudo must not lock the daemon out.
    fn give_to_owner(&self, path: &Path) -> Result<(), DirectoryError> {
        let directory = fs::metadata(&self.path).map_err(io("read", &self.path))?;
        let file = fs::metadata(path).map_err(io("read", path))?;
        if file.uid() == directory.uid() {
            return Ok(());
        }
        let (uid, gid) = (Some(directory.uid()), Some(directory.gid()));
        std::os::unix::fs::chown(path, uid, gid).map_err(io("give to its owner", path))
    }

    fn read(&self, name: &str) -> Result<String, DirectoryError> {
        let path = self.file(name);
        fs::read_to_string(&path).map_err(io("read", &path))
    }

    fn read_secret(&self, name: &str) -> Result<String, DirectoryError> {
        self.check_private(&self.file(name))?;
        self.read(name)
    }

    /// Writes a file whole or not at all, for its owner only, onto the disk.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DirectoryError> {
        let (path, temporary) = (self.file(name), self.file(&format!(".{name}.new")));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(io("write", &temporary))?;
        self.give_to_owner(&temporary)?;
        file.write_all(bytes).map_err(io("write", &temporary))?;
        file.sync_all().map_err(io("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(io("write", &path))?;
        let directory = fs::File::open(&self.path).map_err(io("read", &self.path))?;
        directory.sync_all().map_err(io("write", &self.path))
    }

    /// Opens the store; fails while another process has it open, and when it is gone: an empty one in
    /// its place would know no operator, no token and no policy, and say nothing.
    pub fn open_store(&self) -> Result<Embedded, StoreError> {
        let path = self.file("store.redb");
        match fs::exists(&path) {
            Ok(false) => Err(StoreError::Missing(path)),
            _ => Embedded::open(&path),
        }
    }

    /// The settings.
    pub fn config(&self) -> Result<Config, DirectoryError> {
        let path = self.file("control.toml");
        Ok(Config::parse(&path.display().to_string(), &self.read("control.toml")?)?)
    }

    /// The authority, with the settings it was checked against.
    pub fn authority(&self) -> Result<(Config, Authority), DirectoryError> {
        let config = self.config()?;
        let key = self.read_secret("root.key")?;
        let authority = Authority::open(&key, &self.read("root.pem")?, config.certificate_life.0)?;
        if *authority.domain() != config.trust_domain {
            let (configured, root) = (config.trust_domain, authority.domain().clone());
            return Err(DirectoryError::OtherDomain { configured, root });
        }
        Ok((config, authority))
    }

    /// Everything `serve` needs. A control certificate that is absent, of other names or due for
    /// renewal is made anew; not by a clock that the root contradicts.
    pub fn open(&self) -> Result<Opened, DirectoryError> {
        let (config, authority) = self.authority()?;
        let (now, (from, until)) = (moment::now(), authority.validity()?);
        if now < from || now >= until {
            return Err(DirectoryError::Clock { now, from, until });
        }
        let present = match fs::exists(self.file("control.pem")) {
            Ok(true) => {
                let pem = self.read_secret("control.pem")?;
                Some(Own::read(&pem, &pem, &authority)?)
            }
            _ => None,
        };
        let addresses = config.addresses()?;
        let fits = |own: &Own| *own.name() == config.name && own.names(&addresses);
        let own = match present {
            Some(own) if fits(&own) && !own.is_due(now) => own,
            _ => self.renew(&config, &authority)?,
        };
        Ok(Opened { config, authority, own })
    }

    /// Makes a new control key and certificate and keeps them.
    pub fn renew(&self, config: &Config, authority: &Authority) -> Result<Own, DirectoryError> {
        let made = authority.issue_control(&config.name, &config.addresses()?, moment::now())?;
        let pem = made.key_pem + &made.certificate.pem;
        let own = Own::read(&pem, &pem, authority)?;
        self.write("control.pem", pem.as_bytes())?;
        Ok(own)
    }

    /// The root bundle, PEM.
    pub fn bundle(&self) -> Result<String, DirectoryError> {
        self.read("root.pem")
    }

    /// The first operator's token, if it is still kept here.
    pub fn operator_token(&self) -> Result<String, DirectoryError> {
        Ok(self.read_secret("operator.token")?.trim().to_owned())
    }
}

#[cfg(test)]
mod tests;
