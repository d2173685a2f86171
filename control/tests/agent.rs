//! The agent in a real QEMU: what it lends, whom it serves, and its rollback script.
//!
//! These tests need `qemu-system-x86_64` in PATH and are skipped without. QEMU is started as
//! a user starts it, through `command_line::run`, in a process of its own: the test binary
//! runs itself with a role in its environment (see `roles`). The agent's library is built by
//! `cargo build -p pagelift-agent` into the target folder of the tests.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use agent_support::{Vm, have_qemu, role_command_through, uffd, wait_until};
use pagelift_agent_protocol::{
    ErrorCode, FEATURE_HOLD, FEATURE_JOURNAL, FEATURE_ROLLBACK, FEATURE_SHORT_PERIODS,
    FEATURE_THROTTLE, FEATURE_USERFAULTFD, HEADER_BYTES, Header, Reply, RollbackStep, VERSION,
};
use pagelift_control::agent_client::{AgentClient, AgentError};
use pagelift_control::driver::qemu::SourceQemu;
use pagelift_control::qmp::{Address, Qmp};

mod agent_hand_over;
mod agent_settle;
mod agent_support;

#[test]
fn lends_a_userfaultfd_that_dies_with_its_last_holder() {
    let Some(vm) = Vm::start(&[]) else { return };
    let mut client = AgentClient::connect(vm.pid()).unwrap();
    let hello = client.hello().unwrap();
    assert_eq!((hello.version, hello.pid), (VERSION, vm.pid()));
    assert_eq!(
        hello.features,
        FEATURE_USERFAULTFD
            | FEATURE_ROLLBACK
            | FEATURE_THROTTLE
            | FEATURE_SHORT_PERIODS
            | FEATURE_HOLD
            | FEATURE_JOURNAL
    );

    let lent = client.userfaultfd().unwrap();
    if !uffd::negotiate_async_write_protect(&lent.fd) {
        eprintln!("SKIP: this kernel has no asynchronous write protection (Linux 6.7)");
        return;
    }
    let ram = vm.ram_mapping();
    assert_eq!(ram.end - ram.start, 64 << 20);
    assert!(!vm.is_write_protect_tracked(ram.start));
    uffd::register_write_protect(&lent.fd, ram.start, ram.end - ram.start);
    assert!(vm.is_write_protect_tracked(ram.start));

    // The agent kept no copy, and neither the connection nor the agent holds the tracking.
    drop(client);
    assert!(vm.is_write_protect_tracked(ram.start));
    drop(lent);
    // A process that another test is just starting may hold a copy until it executes.
    wait_until("the end of tracking", || {
        !vm.is_write_protect_tracked(ram.start)
    });
    assert_eq!(vm.status(), "running");
}

#[test]
fn serves_one_client_and_names_it_to_the_second() {
    let Some(vm) = Vm::start(&[]) else { return };
    let mut first = AgentClient::connect(vm.pid()).unwrap();
    first.hello().unwrap();
    let mut second = AgentClient::connect(vm.pid()).unwrap();
    let error = second.hello().unwrap_err();
    assert!(matches!(error, AgentError::Busy { .. }), "{error}");
    let own = format!("busy: pid {} is using it", std::process::id());
    assert!(error.to_string().contains(&own), "{error}");

    first.hello().unwrap();
    drop(first);
    vm.next_client();
}

#[test]
fn runs_the_rollback_script_of_a_killed_client() {
    let Some(mut vm) = Vm::start(&[]) else { return };
    vm.execute("stop");
    let mut client = vm.spawn_client("keep");
    assert_eq!(vm.status(), "paused");
    client.kill();
    wait_until("the script to resume the guest", || {
        vm.status() == "running"
    });
    let said = vm.standard_error();
    assert!(
        said.contains("no-such-capability") && said.contains(" failed: "),
        "{said}"
    );
}

#[test]
fn forgets_a_script_that_was_cleared() {
    let Some(mut vm) = Vm::start(&[]) else { return };
    vm.execute("stop");
    let mut client = vm.spawn_client("clear");
    client.kill();
    // Scripts run before the next client is served: if there were one, it is done by now.
    vm.next_client();
    assert_eq!(vm.status(), "paused");
}

#[test]
fn a_client_that_says_nothing_loses_its_place() {
    let Some(vm) = Vm::start(&[]) else { return };
    let mut silent = UnixStream::connect(vm.agent_socket()).unwrap();
    // The beginning of a request is none.
    silent.write_all(b"PLAG").unwrap();
    let error = AgentClient::connect(vm.pid()).unwrap().hello().unwrap_err();
    assert!(matches!(error, AgentError::Busy { .. }), "{error}");
    vm.next_client();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0, "it was sent away");
}

#[test]
fn a_script_is_for_a_monitor_of_this_qemu_alone() {
    let Some(mut vm) = Vm::start(&[]) else { return };
    vm.execute("stop");
    let mut client = AgentClient::connect(vm.pid()).unwrap();
    let others = vm.path("others.sock");
    let _listener = UnixListener::bind(&others).unwrap();
    for (path, word) in [
        (vm.path("no-such.sock"), "No such file"),
        (others, "is not a monitor"),
    ] {
        let error = client
            .set_rollback(&path, &[RollbackStep::Continue])
            .unwrap_err();
        let is_refused = matches!(
            &error,
            AgentError::Refused {
                code: ErrorCode::NoMonitor,
                ..
            }
        );
        assert!(is_refused && error.to_string().contains(word), "{error}");
    }

    // One that was QEMU's when the script was set, and is another's when it runs.
    let path = vm.path("rollback.sock");
    client
        .set_rollback(&path, &[RollbackStep::Continue])
        .unwrap();
    fs::remove_file(&path).unwrap();
    let impostor = UnixListener::bind(&path).unwrap();
    drop(client);
    vm.next_client();
    let (mut called, _) = impostor.accept().unwrap();
    assert_eq!(called.read(&mut [0]).unwrap(), 0, "it is told nothing");
    let said = vm.standard_error();
    assert!(said.contains("it is not this QEMU's any more"), "{said}");
    assert_eq!(vm.status(), "paused");
}

#[test]
fn answers_while_a_script_waits_for_its_monitor() {
    let Some(mut vm) = Vm::start(&[]) else { return };
    vm.execute("stop");
    let path = vm.path("rollback.sock");
    let holder = UnixStream::connect(&path).unwrap();
    let mut client = AgentClient::connect(vm.pid()).unwrap();
    client
        .set_rollback(&path, &[RollbackStep::Continue])
        .unwrap();
    drop(client);
    wait_until("the agent to say what it does", || {
        let refused = AgentClient::connect(vm.pid()).unwrap().userfaultfd();
        matches!(
            refused,
            Err(AgentError::Refused {
                code: ErrorCode::Undoing,
                ..
            })
        )
    });
    drop(holder);
    AgentClient::connect(vm.pid()).unwrap().hello().unwrap();
    assert_eq!(vm.status(), "running");
}

#[test]
fn works_under_the_sandbox_of_libvirt() {
    let sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
    let Some(mut vm) = Vm::start(&["-sandbox", sandbox]) else {
        return;
    };
    vm.execute("stop");
    let mut client = AgentClient::connect(vm.pid()).unwrap();
    client.userfaultfd().unwrap();
    client
        .set_rollback(&vm.path("rollback.sock"), &[RollbackStep::Continue])
        .unwrap();
    drop(client);
    wait_until("the script to resume the guest", || {
        vm.status() == "running"
    });
}

#[test]
fn survives_daemonize_and_leaves_nothing_behind() {
    let Some(vm) = Vm::start_daemon() else { return };
    let pid = vm.pid();
    let mut client = AgentClient::connect(pid).unwrap();
    assert_eq!(client.hello().unwrap().pid, pid);
    client.userfaultfd().unwrap();
    let files = fs::read_dir(vm.path(".")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = names.filter(|name| name.starts_with("pagelift")).collect();
    assert!(left.is_empty(), "{left:?}");
    let qmp = Qmp::connect(&Address::Unix(vm.path("qmp.sock"))).unwrap();
    assert_eq!(qmp.peer_pid().unwrap(), pid);
    drop(qmp);
    drop(vm);
    assert!(client.hello().is_err());
    assert!(AgentClient::connect(pid).is_err());
}

const NOBODY: u32 = 65534;

/// What a process says that asks the agent of `vm` for its name, started through `wrapper`.
fn hello_through(vm: &Vm, wrapper: &[&str]) -> String {
    let output = role_command_through(wrapper, "hello")
        .env("PAGELIFT_TEST_PID", vm.pid().to_string())
        .output()
        .unwrap();
    let [said, errors] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    said + &errors
}

/// `setpriv`, which becomes another user without any capability.
fn user(id: &str) -> [&str; 5] {
    ["setpriv", "--reuid", id, "--regid=65534", "--clear-groups"]
}

/// Root without its capabilities, as in a container.
const POWERLESS_ROOT: [&str; 3] = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];

#[test]
fn root_of_a_container_is_nobody_to_the_agent() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: only root can become another user");
        return;
    }
    let Some(vm) = Vm::start(&[]) else { return };
    assert!(hello_through(&vm, &[]).contains("AgentInfo {"));
    let refused = format!(
        "does not let this process look into QEMU process {}",
        vm.pid()
    );
    let own_proc = ["unshare", "--pid", "--fork", "--mount", "--mount-proc"];
    let hosts_proc = ["unshare", "--pid", "--fork", "--mount"];
    for (wrapper, expected) in [
        (POWERLESS_ROOT.to_vec(), &refused),
        ([&hosts_proc[..], &POWERLESS_ROOT].concat(), &refused),
        (user("65534").to_vec(), &refused),
        (
            [&own_proc[..], &POWERLESS_ROOT].concat(),
            &format!("there is no process {}", vm.pid()),
        ),
    ] {
        let said = hello_through(&vm, &wrapper);
        if said.contains("unshare:") || said.contains("failed to execute") {
            eprintln!("SKIP: {}", said.trim());
            continue;
        }
        assert!(said.contains(expected.as_str()), "{wrapper:?}: {said}");
    }
}

#[test]
fn the_user_of_qemu_is_served_and_no_other() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: only root can become another user");
        return;
    }
    if !hello_probe(&user("65534")) {
        eprintln!("SKIP: another user may not execute this test");
        return;
    }
    let Some(vm) = Vm::start_as(NOBODY) else {
        return;
    };
    let said = hello_through(&vm, &user("65534"));
    assert!(said.contains("AgentInfo {"), "{said}");
    let refused = format!(
        "QEMU process {} of user {NOBODY}: run pagelift as",
        vm.pid()
    );
    let unmapped = [&user("1234")[..], &["unshare", "--user"]].concat();
    for wrapper in [user("1234").to_vec(), POWERLESS_ROOT.to_vec(), unmapped] {
        let said = hello_through(&vm, &wrapper);
        if said.contains("unshare:") {
            eprintln!("SKIP: {}", said.trim());
            continue;
        }
        assert!(said.contains(&refused), "{wrapper:?}: {said}");
    }

    // Without privileges the kernel's last offer is for user mode; tracking works with it.
    let lent = AgentClient::connect(vm.pid())
        .unwrap()
        .userfaultfd()
        .unwrap();
    let allowed = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").unwrap();
    assert_eq!(lent.user_mode_only, allowed.trim() == "0");
    if uffd::negotiate_async_write_protect(&lent.fd) {
        let ram = vm.ram_mapping();
        uffd::register_write_protect(&lent.fd, ram.start, ram.end - ram.start);
        assert!(vm.is_write_protect_tracked(ram.start));
    }
}

/// What root would do on the word of another user's QEMU, it would do with root's rights.
#[test]
fn root_moves_no_qemu_of_another_user() {
    if !rustix::process::geteuid().is_root() || !hello_probe(&user("65534")) {
        eprintln!("SKIP: only root can start another user's QEMU, from a folder open to all");
        return;
    }
    let Some(vm) = Vm::start_as(NOBODY) else {
        return;
    };
    let error = SourceQemu::connect(&Address::Unix(vm.path("qmp.sock"))).unwrap_err();
    let expected = format!("belongs to user {NOBODY}, and this program runs as user 0");
    assert!(error.to_string().contains(&expected), "{error}");
}

/// Whether this test can be executed through `wrapper` at all.
fn hello_probe(wrapper: &[&str]) -> bool {
    let output = role_command_through(wrapper, "nothing").output();
    output.is_ok_and(|output| output.status.success())
}

#[test]
fn unknown_requests_are_refused_and_broken_ones_end_the_connection() {
    let Some(vm) = Vm::start(&[]) else { return };
    let mut stream = UnixStream::connect(vm.agent_socket()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut code_of_next_error = |bytes: &[u8]| {
        // Byte by byte, so that the agent has to put the message together.
        for byte in bytes {
            stream.write_all(&[*byte]).unwrap();
        }
        let mut header = [0; HEADER_BYTES];
        stream.read_exact(&mut header)?;
        let header = Header::decode(&header).unwrap();
        let mut payload = vec![0; header.payload_bytes];
        stream.read_exact(&mut payload)?;
        match Reply::decode(header.kind, &payload).unwrap() {
            Reply::Error(error) => Ok::<_, std::io::Error>(error.code),
            other => panic!("{other:?} instead of an error"),
        }
    };
    let unknown = b"PLAG\x02\x00\x63\x00\x03\x00\x00\x00abc";
    let malformed = b"PLAG\x02\x00\x01\x00\x01\x00\x00\x00x";
    let other_version = b"PLAG\x01\x00\x01\x00\x00\x00\x00\x00";
    assert_eq!(
        code_of_next_error(unknown).unwrap(),
        ErrorCode::UnknownRequest
    );
    assert_eq!(code_of_next_error(malformed).unwrap(), ErrorCode::Malformed);
    assert_eq!(
        code_of_next_error(unknown).unwrap(),
        ErrorCode::UnknownRequest
    );
    assert_eq!(
        code_of_next_error(other_version).unwrap(),
        ErrorCode::Malformed
    );
    assert!(code_of_next_error(b"").is_err(), "the connection has ended");
    AgentClient::connect(vm.pid()).unwrap().hello().unwrap();
}

#[test]
fn real_memory_is_shared_whatever_the_command_line() {
    let table: &[(&[&str], &[u64])] = &[
        (&["-m", "size=64M,slots=1,maxmem=128M"], &[64]),
        (
            &["-m", "64", "-mem-path", "/dev/shm", "-mem-prealloc"],
            &[64],
        ),
        (
            &[
                "-m",
                "64,slots=1,maxmem=128M",
                "-object",
                r#"{"qom-type":"memory-backend-memfd","id":"a","size":33554432}"#,
                "-numa",
                "node,memdev=a",
                "-object",
                "memory-backend-ram,id=b,size=32M,policy=default,prealloc=on",
                "-numa",
                "node,memdev=b",
            ],
            &[32, 32],
        ),
        (
            &[
                "-m",
                "64,slots=1,maxmem=128M",
                "-object",
                "memory-backend-ram,id=d,size=32M",
                "-device",
                "pc-dimm,memdev=d",
            ],
            &[32, 64],
        ),
    ];
    for (args, sizes_mib) in table {
        let Some(mut vm) = Vm::start(args) else {
            return;
        };
        let backends = vm.execute("query-memdev");
        let backends = backends.as_array().unwrap();
        assert!(backends.iter().all(|backend| backend["share"] == true));
        let mut sizes: Vec<_> = backends
            .iter()
            .map(|backend| backend["size"].as_u64().unwrap() >> 20)
            .collect();
        sizes.sort_unstable();
        assert_eq!(&sizes, sizes_mib, "{args:?}");
        AgentClient::connect(vm.pid()).unwrap().hello().unwrap();
    }
}

#[test]
fn an_impostor_is_told_from_the_agent() {
    let Some(vm) = Vm::start(&[]) else { return };
    // This process holds the socket of another's agent.
    let flags = rustix::fs::OFlags::PATH.bits().cast_signed();
    let held = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(vm.agent_socket())
        .unwrap();
    let own = std::process::id();
    let error = AgentClient::connect(own).unwrap_err();
    drop(held);
    assert!(
        matches!(error, AgentError::WrongProcess { pid, holder } if pid == own && holder == vm.pid()),
        "{error}"
    );
}

#[test]
fn a_process_without_an_agent_and_no_process_say_what_to_do() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let error = AgentClient::connect(pid).unwrap_err().to_string();
    child.kill().unwrap();
    child.wait().unwrap();
    let expected = format!(
        "no agent in QEMU process {pid}: start it with `pagelift run -- qemu-system-x86_64 ...`"
    );
    assert!(error.starts_with(&expected), "{error}");
    // Above the highest process id that Linux allows, 2^22.
    for pid in [0, 1 << 23] {
        let error = AgentClient::connect(pid).unwrap_err();
        assert!(matches!(error, AgentError::NoProcess { .. }), "{error}");
    }
}

#[test]
fn programs_that_map_no_guest_ram_run_as_ever() {
    if !have_qemu() {
        return;
    }
    let output = Command::new("qemu-system-x86_64")
        .arg("--version")
        .env("LD_PRELOAD", agent_support::agent_library())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(output.stderr.is_empty());
}
