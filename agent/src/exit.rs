//! How the agent ends: sysexits(3) codes, so that a service manager and a script can tell what to do.
//!
//! 78 and 77 do not get better by restarting; 75, 69 and 70 may. systemd's `RestartPreventExitStatus=` is
//! written against these.

use std::process::ExitCode;

use crate::config::{ConfigError, NeedsRestart};
use crate::disk::{DiskError, OpenError, Unsaved};
use crate::dns::DnsError;
use crate::enrol::EnrolError;
use crate::identity::{IdentityError, StoreError};
use crate::link::LinkError;
use crate::proxy::{GateError, ProxyError};

/// A sysexits code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: all is well.
    Ok,
    /// 64: the command line is wrong.
    Usage,
    /// 69: something the agent needs is taken or not there (a port in use).
    Unavailable,
    /// 70: a mistake of ours.
    Software,
    /// 74: the disk does not take or give what it should.
    Io,
    /// 75: try again later (the control plane is not reachable).
    Temporary,
    /// 77: not allowed to (permissions of files, a token refused).
    NoPermission,
    /// 78: the configuration is wrong.
    Config,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Software => 70,
            Self::Io => 74,
            Self::Temporary => 75,
            Self::NoPermission => 77,
            Self::Config => 78,
        }
    }

    /// For an operation of the system that failed.
    pub fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
        match error.kind() {
            PermissionDenied => Self::NoPermission,
            AddrInUse | AddrNotAvailable => Self::Unavailable,
            _ => Self::Io,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<&ConfigError> for Exit {
    fn from(error: &ConfigError) -> Self {
        match error {
            ConfigError::Read { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Self::NoPermission
            }
            ConfigError::Read { .. } | ConfigError::Mistakes(_) => Self::Config,
        }
    }
}

impl From<&hearth_proto::settings::SettingsError> for Exit {
    fn from(_: &hearth_proto::settings::SettingsError) -> Self {
        Self::Config
    }
}

impl From<&NeedsRestart> for Exit {
    fn from(_: &NeedsRestart) -> Self {
        Self::Config
    }
}

impl From<&DiskError> for Exit {
    fn from(error: &DiskError) -> Self {
        Self::of_io(&error.source)
    }
}

impl From<&OpenError> for Exit {
    fn from(error: &OpenError) -> Self {
        match error {
            OpenError::Disk(error) => error.into(),
            OpenError::TooOpen { .. } => Self::NoPermission,
            OpenError::Held { .. } => Self::Unavailable,
        }
    }
}

impl From<&Unsaved> for Exit {
    fn from(error: &Unsaved) -> Self {
        (&error.source).into()
    }
}

impl From<&StoreError> for Exit {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::TooOpen { .. } => Self::NoPermission,
            StoreError::Read { source, .. } => Self::of_io(source),
            StoreError::Incomplete { .. } => Self::Config,
            StoreError::Write(error) => error.into(),
            StoreError::Key(_) => Self::Software,
        }
    }
}

impl From<&IdentityError> for Exit {
    fn from(error: &IdentityError) -> Self {
        match error {
            IdentityError::Store(error) => error.into(),
            IdentityError::Unusable { .. } => Self::Config,
            IdentityError::NotTaken(_) | IdentityError::Bundle(_) => Self::Temporary,
        }
    }
}

impl From<&LinkError> for Exit {
    fn from(error: &LinkError) -> Self {
        match error {
            LinkError::Bind { .. } => Self::Unavailable,
            LinkError::Unreachable { .. }
            | LinkError::Busy { .. }
            | LinkError::Lost { .. }
            | LinkError::Closed => Self::Temporary,
        }
    }
}

impl From<&DnsError> for Exit {
    fn from(error: &DnsError) -> Self {
        match error.source.kind() {
            std::io::ErrorKind::PermissionDenied => Self::NoPermission,
            _ => Self::Unavailable,
        }
    }
}

impl From<&GateError> for Exit {
    fn from(_: &GateError) -> Self {
        Self::Config
    }
}

impl From<&ProxyError> for Exit {
    fn from(error: &ProxyError) -> Self {
        let (ProxyError::Listen { source, .. } | ProxyError::ListenUdp { source, .. }) = error;
        Self::of_io(source)
    }
}

impl From<&EnrolError> for Exit {
    fn from(error: &EnrolError) -> Self {
        match error {
            error if error.is_temporary() => Self::Temporary,
            EnrolError::Token(_) | EnrolError::OtherName { .. } => Self::Config,
            EnrolError::TokenFile { source, .. } => match Self::of_io(source) {
                Self::NoPermission => Self::NoPermission,
                _ => Self::Config,
            },
            EnrolError::WrongRoot { .. } | EnrolError::Refused { .. } => Self::NoPermission,
            EnrolError::Identity(error) => error.into(),
            EnrolError::Store(error) => error.into(),
            // A clock is set, a control plane is upgraded: the next start may find it right.
            EnrolError::Clock { .. }
            | EnrolError::Tls { .. }
            | EnrolError::Answer { .. }
            | EnrolError::Lookup { .. }
            | EnrolError::Unreachable { .. } => Self::Temporary,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::{Config, HostPort};

    #[test]
    fn each_kind_of_failure_has_the_code_that_says_what_to_do() {
        let control = HostPort::parse("10.0.0.2:7945").unwrap();
        let refused = |status| EnrolError::Refused {
            control: control.clone(),
            attempt: "join",
            status,
            error: String::new(),
            hint: String::new(),
        };
        let unreachable = EnrolError::Unreachable { control: control.clone(), why: String::new() };
        let mistake = Config::parse("agent.toml", "nmae = 1", []).unwrap_err();
        let missing = Config::load(Path::new("/nowhere"), []).unwrap_err();
        let held = OpenError::Held { path: PathBuf::new(), holder: None };
        let wide = OpenError::TooOpen { path: PathBuf::new(), mode: 0o755 };
        let full = DiskError::new("write", Path::new("x"), io::ErrorKind::StorageFull.into());
        for (exit, code) in [
            (Exit::from(&mistake), 78),
            (Exit::from(&missing), 78),
            (Exit::from(&unreachable), 75),
            (Exit::from(&refused(503)), 75),
            (Exit::from(&refused(401)), 77),
            (Exit::from(&held), 69),
            (Exit::from(&wide), 77),
            (Exit::from(&full), 74),
            (Exit::of_io(&io::ErrorKind::AddrInUse.into()), 69),
            (Exit::Ok, 0),
        ] {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
    }
}
