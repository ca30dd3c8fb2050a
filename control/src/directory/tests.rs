use std::net::SocketAddr;
use std::time::Duration;

use hearth_proto::ids::NodeName;

use super::*;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hearth-dir-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }

    /// What the program would print, with the scratch path replaced by `/D`.
    fn told(&self, e: DirectoryError) -> String {
        Failure::from(e).to_string().replace(&self.0.display().to_string(), "/D")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn config() -> Config {
    let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let name = NodeName::parse("control-1").unwrap();
    Config::new(name, TrustDomain::parse("mesh.example").unwrap(), listen)
}

fn init(path: &Path) -> Result<Made, DirectoryError> {
    Directory::init(path, &config())
}

#[test]
fn init_makes_a_directory_for_its_owner_only_that_opens_again() {
    let scratch = Scratch::new("init");
    let path = scratch.0.join("c");
    let made = init(&path).unwrap();
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
    }
    let directory = Directory::find(&path).unwrap();
    let opened = directory.open().unwrap();
    assert_eq!(opened.config, config());
    assert_eq!(opened.own.name().as_str(), "control-1");
    assert_eq!(directory.operator_token().unwrap(), made.operator_token);
    let stored = directory.open_store().unwrap().operators().unwrap();
    assert!(!stored[0].hash.contains(&made.operator_token), "the token itself was stored");
}

#[test]
fn a_lost_control_certificate_is_made_anew_and_a_kept_one_is_kept() {
    let scratch = Scratch::new("renew");
    let path = scratch.0.join("c");
    init(&path).unwrap();
    let directory = Directory::find(&path).unwrap();
    let before = fs::read(directory.file("control.pem")).unwrap();
    directory.open().unwrap();
    assert_eq!(fs::read(directory.file("control.pem")).unwrap(), before);
    fs::remove_file(directory.file("control.pem")).unwrap();
    directory.open().unwrap();
    assert_ne!(fs::read(directory.file("control.pem")).unwrap(), before);
}

#[test]
fn a_control_certificate_past_half_of_its_life_is_renewed_at_the_start() {
    let scratch = Scratch::new("due");
    let path = scratch.0.join("c");
    init(&path).unwrap();
    let directory = Directory::find(&path).unwrap();
    let (config, authority) = directory.authority().unwrap();
    let addresses = config.addresses().unwrap();
    let days_ago = |days: u64| moment::before(moment::now(), Duration::from_secs(days * 86_400));
    for (age, renewed) in [(3, false), (4, true), (8, true)] {
        let old = authority.issue_control(&config.name, &addresses, days_ago(age)).unwrap();
        let pem = old.key_pem + &old.certificate.pem;
        directory.write("control.pem", pem.as_bytes()).unwrap();
        let expires = directory.open().unwrap().own.expires();
        assert_eq!(expires != old.certificate.expires, renewed, "{age} days old");
    }
}

#[test]
fn a_control_certificate_from_a_clock_that_was_ahead_or_for_other_hosts_is_made_anew() {
    let scratch = Scratch::new("ahead");
    let path = scratch.0.join("c");
    init(&path).unwrap();
    let directory = Directory::find(&path).unwrap();
    let (config, authority) = directory.authority().unwrap();
    let addresses = config.addresses().unwrap();
    let ahead = moment::after(moment::now(), Duration::from_secs(365 * 86_400));
    for (when, addresses) in [(ahead, addresses.as_slice()), (moment::now(), &[])] {
        let left = authority.issue_control(&config.name, addresses, when).unwrap();
        let left = left.key_pem + &left.certificate.pem;
        directory.write("control.pem", left.as_bytes()).unwrap();
        let own = directory.open().unwrap().own;
        assert_ne!(directory.read("control.pem").unwrap(), left);
        assert!(!own.is_due(moment::now()) && own.names(&config.addresses().unwrap()));
    }
}

#[test]
fn a_clock_that_the_root_contradicts_stops_the_start() {
    let scratch = Scratch::new("clock");
    let path = scratch.0.join("c");
    init(&path).unwrap();
    let directory = Directory::find(&path).unwrap();
    let next_year = moment::after(moment::now(), Duration::from_secs(365 * 86_400));
    let (key, root) = new_root(&config().trust_domain, next_year).unwrap();
    directory.write("root.key", key.as_bytes()).unwrap();
    directory.write("root.pem", root.as_bytes()).unwrap();
    let failure = Failure::from(directory.open().map(drop).unwrap_err());
    assert_eq!(failure.exit, Exit::Temporary);
    assert!(failure.what.starts_with("this host's clock says 20"), "{failure}");
    assert!(failure.hint.starts_with("set the clock"), "{failure}");
}

#[test]
fn a_store_that_is_gone_or_put_aside_is_said_and_never_replaced_in_silence() {
    let scratch = Scratch::new("gone");
    let path = scratch.0.join("c");
    init(&path).unwrap();
    let directory = Directory::find(&path).unwrap();
    let store = directory.open_store().unwrap();
    let aside = scratch.0.join("aside");
    fs::rename(directory.file("store.redb"), &aside).unwrap();
    let moved = store.prune(moment::now()).unwrap_err();
    assert_eq!(
        scratch.told(moved.into()),
        "error: the store /D/c/store.redb was moved or replaced while in use\n  hint: put it back, or \
         restart hearth-control on what is there now; nothing was changed"
    );
    fs::rename(&aside, directory.file("store.redb")).unwrap();
    store.prune(moment::now()).unwrap();
    drop(store);
    fs::remove_file(directory.file("store.redb")).unwrap();
    assert_eq!(
        scratch.told(directory.open_store().map(drop).unwrap_err().into()),
        "error: the store /D/c/store.redb is missing\n  hint: restore it from backup; without one, \
         hearth-control operator --dir /D/c makes an empty one: nodes go on, join tokens and the \
         policy's history are lost"
    );
    fs::remove_file(directory.file("root.key")).unwrap();
    assert_eq!(
        scratch.told(directory.open().map(drop).unwrap_err()),
        "error: cannot read /D/c/root.key: No such file or directory (os error 2)\n  hint: restore \
         /D/c/root.key from backup"
    );
    let fresh = directory.new_operator(FIRST_OPERATOR, moment::now()).unwrap();
    assert_eq!(directory.operator_token().unwrap(), fresh);
    assert_eq!(directory.open_store().unwrap().operators().unwrap().len(), 1);
}

#[test]
fn what_root_makes_belongs_to_the_directorys_owner() {
    let scratch = Scratch::new("owner");
    if fs::metadata(&scratch.0).unwrap().uid() != 0 {
        eprintln!("not run: only root can give files away");
        return;
    }
    let path = scratch.0.join("c");
    DirBuilder::new().mode(0o700).create(&path).unwrap();
    std::os::unix::fs::chown(&path, Some(12_345), Some(12_345)).unwrap();
    init(&path).unwrap();
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().uid(), 12_345, "{}", entry.path().display());
    }
}

#[test]
fn each_wrong_directory_says_what_where_and_what_to_do() {
    let scratch = Scratch::new("wrong");
    let path = scratch.0.join("c");
    let absent = Directory::find(&path).map(drop).unwrap_err();
    assert_eq!(
        scratch.told(absent),
        "error: /D/c holds no control plane (there is no control.toml)\n  hint: make one with: \
         hearth-control init --dir /D/c --trust-domain NAME"
    );
    init(&path).map(drop).unwrap();
    assert_eq!(
        scratch.told(init(&path).map(drop).unwrap_err()),
        "error: /D/c holds a control plane already (trust domain mesh.example)\n  hint: start it with: \
         hearth-control serve --dir /D/c; a new mesh needs another directory"
    );
    let other = scratch.0.join("other");
    DirBuilder::new().mode(0o700).create(&other).unwrap();
    fs::write(other.join("x"), "").unwrap();
    assert_eq!(
        scratch.told(init(&other).map(drop).unwrap_err()),
        "error: /D/other is not empty\n  hint: give a new or empty directory; if an earlier init was \
         interrupted there, remove its files first"
    );
    assert_eq!(
        scratch.told(init(&scratch.0.join("no/such")).map(drop).unwrap_err()),
        "error: cannot make /D/no/such: No such file or directory (os error 2)\n  hint: make /D/no \
         first, or check the path"
    );
    fs::set_permissions(path.join("root.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let directory = Directory::find(&path).unwrap();
    assert_eq!(
        scratch.told(directory.open().map(drop).unwrap_err()),
        "error: /D/c/root.key is open to others (mode 0644)\n  hint: its keys may have been read: check \
         who had access, then chmod go-rwx /D/c/root.key"
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(
        scratch.told(Directory::find(&path).map(drop).unwrap_err()),
        "error: /D/c is open to others (mode 0755)\n  hint: its keys may have been read: check who had \
         access, then chmod go-rwx /D/c"
    );
}

#[test]
fn a_store_that_a_daemon_holds_and_a_changed_trust_domain_are_named() {
    let scratch = Scratch::new("held");
    let path = scratch.0.join("c");
    init(&path).map(drop).unwrap();
    let directory = Directory::find(&path).unwrap();
    let _held = directory.open_store().unwrap();
    let locked = directory.open_store().map(drop).unwrap_err();
    assert_eq!(
        scratch.told(locked.into()),
        "error: the store /D/c/store.redb is in use by another process\n  hint: hearth-control serve is \
         running on it; use the API (hearth token create NODE), or stop it first"
    );
    let text = directory.read("control.toml").unwrap().replace("mesh.example", "other.example");
    directory.write("control.toml", text.as_bytes()).unwrap();
    assert_eq!(
        scratch.told(directory.open().map(drop).unwrap_err()),
        "error: control.toml says trust domain other.example, root.pem is of mesh.example\n  hint: set \
         trust_domain = \"mesh.example\"; a new trust domain is a new init elsewhere"
    );
}
