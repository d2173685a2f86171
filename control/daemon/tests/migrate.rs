//! Guests that move between two daemons, by stock virsh and with real QEMUs.

mod support;

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use pagelift_tests::{PATIENCE, require};
use support::{Daemon, guest_xml, qemu, virsh};

/// Two daemons, as on two hosts.
struct Pair {
    a: Daemon,
    b: Daemon,
}

fn daemon(number: u8) -> Daemon {
    Daemon::start(&format!(
        "[host]\nname = \"host{number}\"\nuuid = \"{}\"\n[migration]\naddress = \"127.0.0.1\"\n\
         listen = \"127.0.0.1\"\nuri = \"qemu+unix:///system?socket=@DIR@/run/pageliftd-sock\"\n\
         shared_directories = [\"/shared\"]\n",
        format_args!("{number}1111111-1111-4111-8111-111111111111")
    ))
}

fn uri(daemon: &Daemon) -> String {
    format!("qemu+unix:///system?socket={}", daemon.socket().display())
}

impl Pair {
    fn new() -> Self {
        Self {
            a: daemon(1),
            b: daemon(2),
        }
    }

    /// With the guest g1, which runs on the first host.
    fn with_guest() -> Self {
        let pair = Self::new();
        let file = pair.a.file("g1.xml", &guest_xml("g1", 1));
        pair.a.virsh_ok(&["define", &file]);
        pair.a.virsh_ok(&["start", "g1"]);
        pair
    }

    /// Moves g1 from the first host to the second.
    fn migrate(&self, options: &[&str]) -> String {
        let uri = uri(&self.b);
        let all = [&["migrate"], options, &["g1", &uri]].concat();
        self.a.virsh_ok(&all)
    }

    /// Tries to, and says what virsh complained of.
    fn refused(&self, options: &[&str]) -> String {
        let uri = uri(&self.b);
        let all = [&["migrate"], options, &["g1", &uri]].concat();
        self.a.virsh_fails(&all)
    }

    /// A migration that goes on until it is ended: its data reach nobody.
    fn endless(&self, options: &[&str]) -> (Child, TcpListener) {
        let hole = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = hole.local_addr().unwrap().port();
        let place = format!("tcp://127.0.0.1:{port}");
        let child = Command::new("timeout")
            .args(["60", "virsh", "-c", &uri(&self.a), "migrate", "--live"])
            .args(options)
            .args([
                "--migrateuri",
                &place,
                "--listen-address",
                "127.0.0.2",
                "g1",
            ])
            .arg(uri(&self.b))
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        until("memory is sent", || {
            self.a
                .virsh_ok(&["domjobinfo", "g1"])
                .contains("Data total")
        });
        (child, hole)
    }
}

fn state(daemon: &Daemon, guest: &str) -> String {
    let output = daemon.virsh(&["domstate", "--reason", guest]);
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        text
    } else {
        "none".into()
    }
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "not: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn complaint(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_guest_moves_and_comes_back() {
    require!(virsh());
    require!(qemu());
    let pair = Pair::with_guest();
    pair.migrate(&["--live"]);
    assert_eq!(state(&pair.a, "g1"), "shut off (migrated)");
    assert_eq!(state(&pair.b, "g1"), "running (migrated)");
    assert!(
        pair.b
            .virsh_ok(&["dominfo", "g1"])
            .contains("Persistent:     no")
    );
    for (daemon, operation) in [
        (&pair.a, "Outgoing migration"),
        (&pair.b, "Incoming migration"),
    ] {
        // Those that may only look take it from nobody, and it is told once to others.
        let looking = format!("{}-ro", uri(daemon));
        let looked = support::virsh_at(&looking, &["domjobinfo", "--completed", "g1"]);
        let looked = String::from_utf8_lossy(&looked.stdout).into_owned();
        assert!(looked.contains("Completed"), "{looked}");
        let info = daemon.virsh_ok(&["domjobinfo", "--completed", "g1"]);
        assert!(
            info.contains("Completed") && info.contains(operation),
            "{info}"
        );
        assert!(info.contains("Total downtime:"), "{info}");
        let info = daemon.virsh_ok(&["domjobinfo", "--completed", "g1"]);
        assert!(info.contains("None"), "{info}");
    }
    // By the daemons themselves, with the definition; nothing is left there.
    let back = [
        "migrate",
        "--live",
        "--p2p",
        "--persistent",
        "--undefinesource",
        "g1",
        &uri(&pair.a),
    ];
    pair.b.virsh_ok(&back);
    assert_eq!(state(&pair.a, "g1"), "running (migrated)");
    assert_eq!(state(&pair.b, "g1"), "none");
    assert_eq!((pair.a.qemus().len(), pair.b.qemus().len()), (1, 0));
}

#[test]
fn options_say_how_a_guest_arrives() {
    require!(virsh());
    require!(qemu());
    let pair = Pair::with_guest();
    pair.migrate(&[
        "--live",
        "--persistent",
        "--undefinesource",
        "--suspend",
        "--dname",
        "g2",
    ]);
    assert_eq!(state(&pair.a, "g1"), "none");
    assert_eq!(state(&pair.b, "g2"), "paused (user)");
    let info = pair.b.virsh_ok(&["dominfo", "g2"]);
    assert!(info.contains("Persistent:     yes"), "{info}");
    assert!(
        info.contains("aaaaaaaa-0000-4000-8000-000000000001"),
        "{info}"
    );
    pair.b.virsh_ok(&["resume", "g2"]);
    // A guest that is paused stays so.
    pair.b.virsh_ok(&["suspend", "g2"]);
    pair.b.virsh_ok(&["migrate", "--live", "g2", &uri(&pair.a)]);
    assert_eq!(state(&pair.a, "g2"), "paused (user)");
    assert_eq!(state(&pair.b, "g2"), "shut off (migrated)");
    // Without --live it stands still while it moves, and runs again.
    pair.a.virsh_ok(&["resume", "g2"]);
    let all = [
        "--parallel",
        "--parallel-connections",
        "2",
        "--bandwidth",
        "200",
    ];
    pair.a
        .virsh_ok(&[&["migrate"], &all[..], &["g2", &uri(&pair.b)]].concat());
    assert_eq!(state(&pair.b, "g2"), "running (migrated)");
    let all = [
        "--live",
        "--auto-converge",
        "--auto-converge-initial",
        "20",
        "--compressed",
    ];
    pair.b
        .virsh_ok(&[&["migrate", "--p2p"], &all[..], &["g2", &uri(&pair.a)]].concat());
    assert_eq!(state(&pair.a, "g2"), "running (migrated)");
}

#[test]
fn a_definition_moves_without_a_process() {
    require!(virsh());
    require!(qemu());
    let pair = Pair::new();
    let file = pair.a.file("g1.xml", &guest_xml("g1", 1));
    pair.a.virsh_ok(&["define", &file]);
    let why = pair.refused(&["--offline"]);
    assert!(
        why.contains("offline migration must be specified with the persistent flag set"),
        "{why}"
    );
    pair.migrate(&["--offline", "--persistent"]);
    assert_eq!(state(&pair.a, "g1"), "shut off (unknown)");
    assert_eq!(state(&pair.b, "g1"), "shut off (unknown)");
    pair.b.virsh_ok(&["undefine", "g1"]);
    pair.migrate(&["--offline", "--persistent", "--undefinesource", "--p2p"]);
    assert_eq!(state(&pair.a, "g1"), "none");
    assert_eq!(state(&pair.b, "g1"), "shut off (unknown)");
    // One that runs would stay there and be here: two guests of one name.
    pair.b.virsh_ok(&["start", "g1"]);
    let back = ["migrate", "--offline", "--persistent", "g1", &uri(&pair.a)];
    assert!(pair.b.virsh_fails(&back).contains("domain is running"));
}

#[test]
fn what_cannot_be_is_refused_and_the_guest_stays() {
    require!(virsh());
    require!(qemu());
    let pair = Pair::with_guest();
    for (options, words) in [
        (
            &["--auto-converge-initial", "20"][..],
            "Turn auto convergence on to tune it",
        ),
        (
            &["--compressed", "--comp-methods", "zstd"],
            "only supported with parallel migration",
        ),
        (
            &["--compressed", "--comp-methods", "mt"],
            "Migration option 'compress' is not supported by QEMU binary",
        ),
        (
            &["--zerocopy"],
            "zero-copy is only available for parallel migration",
        ),
        (
            &["--migrateuri", "http://dst:1000"],
            "unsupported scheme http in migration URI http://dst:1000",
        ),
        (
            &["--migrateuri", "tcp:"],
            "missing host in migration URI: tcp:",
        ),
        (
            &["--migrateuri", "tcp:127.0.0.1:99999"],
            "port out of range",
        ),
        (&["--copy-storage-all"], "NON_SHARED_DISK is not supported"),
        (&["--p2p", "--tunnelled"], "TUNNELLED is not supported"),
    ] {
        let why = pair.refused(&[&["--live"], options].concat());
        assert!(why.contains(words), "{options:?}: {why}");
        assert_eq!(state(&pair.a, "g1"), "running (booted)", "{options:?}");
        assert_eq!(state(&pair.b, "g1"), "none", "{options:?}");
    }
    let same = pair
        .a
        .virsh_fails(&["migrate", "--live", "g1", &uri(&pair.a)]);
    assert!(
        same.contains("Attempt to migrate guest to the same host"),
        "{same}"
    );
    let xml = pair.a.virsh_ok(&["dumpxml", "--migratable", "g1"]);
    let other = pair.a.file("other.xml", &xml.replace("32768", "65536"));
    let why = pair.refused(&["--live", "--xml", &other]);
    assert!(
        why.contains("Target domain max memory 65536 does not match source 32768"),
        "{why}"
    );
    // Nobody listens there.
    let why = pair.refused(&[
        "--live",
        "--listen-address",
        "127.0.0.2",
        "--migrateuri",
        "tcp:127.0.0.1:1",
    ]);
    assert!(
        why.contains("unable to connect to server at '127.0.0.1:1'"),
        "{why}"
    );
    assert_eq!(state(&pair.a, "g1"), "running (booted)");
    assert_eq!(state(&pair.b, "g1"), "none");
    // A guest of this name is there already.
    let there = pair.b.file("g1.xml", &guest_xml("g1", 9));
    pair.b.virsh_ok(&["define", &there]);
    let why = pair.refused(&["--live"]);
    assert!(
        why.contains("domain 'g1' already exists with uuid"),
        "{why}"
    );
    assert_eq!(state(&pair.a, "g1"), "running (booted)");
}

#[test]
fn a_migration_is_asked_after_and_aborted() {
    require!(virsh());
    require!(qemu());
    let pair = Pair::with_guest();
    for options in [&[][..], &["--p2p"]] {
        let (child, _hole) = pair.endless(options);
        let info = pair.a.virsh_ok(&["domjobinfo", "g1"]);
        assert!(
            info.contains("Unbounded") && info.contains("Outgoing migration"),
            "{info}"
        );
        pair.a.virsh_ok(&["migrate-setspeed", "g1", "100"]);
        assert_eq!(pair.a.virsh_ok(&["migrate-getspeed", "g1"]).trim(), "100");
        pair.a.virsh_ok(&["migrate-setmaxdowntime", "g1", "500"]);
        assert_eq!(
            pair.a.virsh_ok(&["migrate-getmaxdowntime", "g1"]).trim(),
            "500"
        );
        let why = pair.refused(&["--live"]);
        assert!(
            why.contains("another migration job is already running for domain 'g1'"),
            "{why}"
        );
        // The target answers questions while a guest comes in.
        assert_eq!(state(&pair.b, "g1"), "paused (migrating)");
        assert!(
            pair.b
                .virsh_ok(&["dumpxml", "g1"])
                .contains("<name>g1</name>")
        );
        let why = pair.b.virsh_fails(&["domjobinfo", "g1"]);
        assert!(
            why.contains("migration statistics are available only on the source host"),
            "{why}"
        );
        let why = pair.b.virsh_fails(&["domjobabort", "g1"]);
        assert!(why.contains("cannot abort incoming migration"), "{why}");
        assert!(
            pair.b
                .virsh_fails(&["resume", "g1"])
                .contains("is being migrated")
        );

        pair.a.virsh_ok(&["domjobabort", "g1"]);
        let why = complaint(child);
        assert!(
            why.contains("job 'migration out' canceled by client"),
            "{why}"
        );
        assert_eq!(state(&pair.a, "g1"), "running (booted)");
        until("the target is clean", || state(&pair.b, "g1") == "none");
        let why = pair.a.virsh_fails(&["domjobabort", "g1"]);
        assert!(why.contains("no job is active on the domain"), "{why}");
    }
    // And it moves, when it is let.
    pair.migrate(&["--live"]);
    assert_eq!(state(&pair.b, "g1"), "running (migrated)");
}

/// A disk that fails while the guest is sent ends the migration, for who asks for it.
#[test]
fn a_disk_that_fails_ends_a_migration() {
    require!(virsh());
    require!(qemu());
    let pair = Pair::new();
    let monitor = pair.a.dir().join("second");
    let disk = r#"{"driver":"blkdebug","node-name":"bad","image":{"driver":"null-co","size":1048576},"inject-error":[{"event":"none","iotype":"read","errno":5}]}"#;
    // More than a socket takes: nothing of it is sent to the end before the disk fails.
    let memory = pair.a.file("memory", &"x".repeat(20 << 20));
    let args = [
        "-device",
        &format!("loader,file={memory},addr=0x100000,force-raw=on"),
        "-blockdev",
        disk,
        "-device",
        "virtio-blk-pci,drive=bad,rerror=stop,bootindex=1,addr=0x10",
        "-qmp",
        &format!("unix:{},server=on,wait=off", monitor.display()),
    ];
    let args: String = args
        .iter()
        .map(|arg| format!("<qemu:arg value='{arg}'/>\n"))
        .collect();
    let xml = guest_xml("g1", 1)
        .replace(
            "<domain type='qemu'>",
            "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>",
        )
        .replace(
            "</domain>",
            &format!("<qemu:commandline>\n{args}</qemu:commandline>\n</domain>"),
        );
    let file = pair.a.file("g1.xml", &xml);
    // Its firmware has read nothing yet.
    pair.a.virsh_ok(&["create", "--paused", &file]);
    let mut second = UnixStream::connect(&monitor).unwrap();
    let (child, _hole) = pair.endless(&["--abort-on-error"]);
    second
        .write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"cont\"}\n")
        .unwrap();
    let why = complaint(child);
    assert!(why.contains("a disk of the guest has failed"), "{why}");
    assert_eq!(state(&pair.a, "g1"), "paused (I/O error)");
    until("the target is clean", || state(&pair.b, "g1") == "none");
}

/// QEMU may have sent the last of it when somebody lets the guest run on.
#[test]
fn a_guest_that_is_being_sent_is_not_resumed() {
    require!(virsh());
    require!(qemu());
    let pair = Pair::with_guest();
    let (child, _hole) = pair.endless(&[]);
    pair.a.virsh_ok(&["suspend", "g1"]);
    let why = pair.a.virsh_fails(&["resume", "g1"]);
    assert!(why.contains("end the migration first"), "{why}");
    assert_eq!(state(&pair.a, "g1"), "paused (user)");
    pair.a.virsh_ok(&["domjobabort", "g1"]);
    complaint(child);
    until("it is not being sent", || {
        pair.a.virsh_ok(&["domjobinfo", "g1"]).contains("None")
    });
    pair.a.virsh_ok(&["resume", "g1"]);
    assert_eq!(state(&pair.a, "g1"), "running (unpaused)");
}

#[test]
fn a_client_that_is_killed_leaves_the_guest_where_it_was() {
    require!(virsh());
    require!(qemu());
    let pair = Pair::with_guest();
    let (mut child, _hole) = pair.endless(&[]);
    // `timeout` is what was started; virsh is its child.
    let pid = child.id().to_string();
    let killed = Command::new("pkill")
        .args(["-KILL", "-P", &pid])
        .status()
        .unwrap();
    assert!(killed.success());
    child.wait().unwrap();
    until("both are settled", || {
        state(&pair.a, "g1") == "running (booted)" && state(&pair.b, "g1") == "none"
    });
    until("the job is over", || {
        pair.a.virsh_ok(&["domjobinfo", "g1"]).contains("None")
    });
}

/// As a compute node of OpenStack does it: peer-to-peer by libvirt's Python, with typed parameters, asked
/// after in a loop, and heard of by an event.
#[test]
fn a_guest_moves_by_libvirts_python() {
    require!(qemu());
    require!(python());
    let pair = Pair::with_guest();
    let script = "\
import libvirt, sys, threading
libvirt.virEventRegisterDefaultImpl()
def events():
    while True: libvirt.virEventRunDefaultImpl()
threading.Thread(target=events, daemon=True).start()
source = libvirt.open(sys.argv[1])
guest = source.lookupByName('g1')
done = threading.Event()
def completed(conn, domain, stats, opaque):
    print('event', stats['operation'], stats['memory_total'] > 0)
    done.set()
source.domainEventRegisterAny(guest, libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, completed, None)
flags = (libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
    | libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE)
xml = guest.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE)
params = {'destination_xml': xml, 'persistent_xml': xml, 'bandwidth': 100}
moving = threading.Thread(target=guest.migrateToURI3, args=(sys.argv[2], params, flags))
moving.start()
while moving.is_alive():
    try: assert guest.jobStats()['type'] in (0, 2)
    except libvirt.libvirtError: pass
    moving.join(0.05)
print('completed', done.wait(10))
target = libvirt.open(sys.argv[2])
there = target.lookupByName('g1')
print(there.state(), there.isPersistent())
stats = there.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
print(stats['type'], stats['operation'])
try: there.migrateToURI3(sys.argv[1], {'frob': 1}, flags)
except libvirt.libvirtError as e: print(e.get_error_code(), e.get_error_domain(), e)
";
    let output = Command::new("timeout")
        .args([
            "60",
            "/usr/bin/python3",
            "-c",
            script,
            &uri(&pair.a),
            &uri(&pair.b),
        ])
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    for line in [
        "event 5 True",
        "completed True",
        "[1, 2] 1",
        "3 4",
        "74 0 argument unsupported: parameter 'frob' not supported",
    ] {
        assert!(
            out.lines().any(|l| l == line),
            "{line}:\n{out}{err}\n{}",
            pair.a.log()
        );
    }
    assert_eq!(state(&pair.a, "g1"), "none");
}

fn python() -> Result<(), pagelift_tests::Skip> {
    let there = Command::new("/usr/bin/python3")
        .args(["-c", "import libvirt"])
        .output();
    match there {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(pagelift_tests::Skip(
            "no libvirt for Python; apt-get install python3-libvirt".into(),
        )),
    }
}
