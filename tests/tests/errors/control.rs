//! `hearth-control`: directories, domains, the store, ports.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use hearth_tests::loopback::Done;

use crate::world::World;

#[test]
fn hearth_control_says_what_stands_in_its_way() {
    let mut world = World::new("control");
    let dir = world.control.dir().display().to_string();
    let path = |name: &str| world.place.path(name).display().to_string();
    let (other, full, nowhere) = (path("other"), path("full"), path("nowhere"));
    let deep = format!("{nowhere}/deep");
    let mut note = |case: &str, args: &[&str], code: i32, place: &str| -> Done {
        let done = world.place.control(args).unwrap();
        let command = format!("hearth-control {}", args.join(" "));
        world.book.error(case, &command, &done, place);
        assert_eq!(done.code, Some(code), "{case}: {done:?}");
        done
    };

    let init = |dir| ["init", "--dir", dir, "--trust-domain", "mesh.example"];
    note("the directory holds a control plane", &init(&dir), 73, "/D/control");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(format!("{full}/letter"), "x").unwrap();
    note("the directory is not empty", &init(&full), 73, "/D/full");
    note("the directory's parent is missing", &init(&deep), 73, "/D/nowhere");
    note(
        "a trust domain that is none",
        &["init", "--dir", &other, "--trust-domain", "Mesh"],
        64,
        "--trust-domain",
    );
    let named = ["init", "--dir", &other, "--trust-domain", "mesh.example", "--address", "a b"];
    note("an address that is none", &named, 64, "--address");

    let token = ["token", "--dir", &dir, "--node", "web-1"];
    note("the store is locked", &token, 75, "/D/control/store.redb");
    note("another serves already", &["serve", "--dir", &dir], 75, "/D/control/store.redb");
    note("nothing was made there", &["serve", "--dir", &nowhere], 78, "/D/nowhere");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let made = ["--listen", &listen, "--metrics", ""];
    let made = world.place.control(&[&init(&other)[..], &made].concat()).unwrap();
    assert_eq!(made.code, Some(0), "{made:?}");
    world.book.port(taken.local_addr().unwrap().port(), "TAKEN");
    let mut note = |case: &str, code: i32, place: &str| {
        let done = world.place.control(&["serve", "--dir", &other]).unwrap();
        world.book.error(case, "hearth-control serve --dir /D/other", &done, place);
        assert_eq!(done.code, Some(code), "{case}: {done:?}");
    };
    note("the port is in use", 69, "127.0.0.1:TAKEN");
    let settings = format!("{other}/control.toml");
    let good = std::fs::read_to_string(&settings).unwrap();
    let mistake = |from: &str, to: &str| {
        assert!(good.contains(from), "{good}");
        std::fs::write(&settings, good.replace(from, to)).unwrap();
    };
    mistake("mesh.example", "other.example");
    note("another trust domain than the root's", 78, "control.toml");
    mistake("listen", "lisen");
    note("an unknown key", 78, "/D/other/control.toml");
    std::fs::write(&settings, &good).unwrap();
    let open = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&other, permissions).unwrap();
    };
    open(0o755);
    note("the directory is open to others", 78, "/D/other");
    open(0o700);
    std::fs::remove_file(format!("{other}/root.key")).unwrap();
    note("the root key is missing", 78, "root.key");
    world.book.close();
}
