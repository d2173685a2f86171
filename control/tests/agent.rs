//! The agent in a real QEMU: what it lends, whom it serves, and its rollback script.
//!
//! These tests need `qemu-system-x86_64` in PATH and are skipped without. QEMU is started as
//! a user starts it, through `command_line::run`, in a process of its own: the test binary
//! runs itself with a role in its environment (see `roles`). The agent's library is built by
//! `cargo build -p pagelift-agent` into the target folder of the tests.

use std::fs;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use agent_support::{Vm, have_qemu, role_command, uffd, wait_until};
use pagelift_agent_protocol::{
    ErrorCode, FEATURE_ROLLBACK, FEATURE_SHORT_PERIODS, FEATURE_THROTTLE, FEATURE_USERFAULTFD,
    HEADER_BYTES, Header, Reply, VERSION, socket_name,
};
use pagelift_control::agent_client::{AgentClient, AgentError};

mod agent_support;

#[test]
fn lends_a_userfaultfd_that_dies_with_its_last_holder() {
    let Some(vm) = Vm::start(&[]) else { return };
    let mut client = AgentClient::connect(vm.pid()).unwrap();
    let hello = client.hello().unwrap();
    assert_eq!((hello.version, hello.pid), (VERSION, vm.pid()));
    assert_eq!(
        hello.features,
        FEATURE_USERFAULTFD | FEATURE_ROLLBACK | FEATURE_THROTTLE | FEATURE_SHORT_PERIODS
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
    assert!(vm.standard_error().contains(r#"no-such-command"} failed"#));
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
fn a_script_without_a_monitor_leaves_the_agent_serving() {
    let Some(mut vm) = Vm::start(&[]) else { return };
    let mut client = AgentClient::connect(vm.pid()).unwrap();
    let gone = vm.path("no-such.sock");
    client.set_rollback(&gone, &["{}".to_owned()]).unwrap();
    drop(client);
    vm.next_client();
    assert!(
        vm.standard_error()
            .contains("the rollback script does not run")
    );
    vm.execute("query-status");
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
    let cont = r#"{"execute":"cont"}"#.to_owned();
    client
        .set_rollback(&vm.path("rollback.sock"), &[cont])
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
    drop(vm);
    assert!(client.hello().is_err());
    let name = format!("@{}", socket_name(pid));
    wait_until("the end of its socket", || {
        let sockets = fs::read_to_string("/proc/net/unix").unwrap();
        !sockets.lines().any(|line| line.ends_with(&name))
    });
    assert!(AgentClient::connect(pid).is_err());
}

#[test]
fn only_root_and_the_user_of_qemu_are_served() {
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: only root can become another user");
        return;
    }
    let hello_of_nobody = |vm: &Vm| {
        let output = role_command("hello")
            .env("PAGELIFT_TEST_PID", vm.pid().to_string())
            .uid(NOBODY)
            .gid(NOBODY)
            .output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(vm) = Vm::start(&[]) else { return };
    let Ok(said) = hello_of_nobody(&vm) else {
        eprintln!("SKIP: another user may not execute this test");
        return;
    };
    let expected = format!(
        "user {NOBODY} may not use the agent of process {}",
        vm.pid()
    );
    assert!(said.contains(&expected), "{said}");
    drop(vm);

    let user = format!("user={NOBODY}:{NOBODY}");
    let Some(vm) = Vm::start(&["-run-with", &user]) else {
        return;
    };
    let said = hello_of_nobody(&vm).unwrap();
    assert!(said.contains("AgentInfo {"), "{said}");
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

#[test]
fn unknown_requests_are_refused_and_broken_ones_end_the_connection() {
    let Some(vm) = Vm::start(&[]) else { return };
    let address = SocketAddr::from_abstract_name(socket_name(vm.pid())).unwrap();
    let mut stream = UnixStream::connect_addr(&address).unwrap();
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
    let unknown = b"PLAG\x01\x00\x63\x00\x03\x00\x00\x00abc";
    let malformed = b"PLAG\x01\x00\x01\x00\x01\x00\x00\x00x";
    let other_version = b"PLAG\x02\x00\x01\x00\x00\x00\x00\x00";
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
    // Process 1 exists everywhere and has no agent; this test binds its name.
    let address = SocketAddr::from_abstract_name(socket_name(1)).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let error = AgentClient::connect(1).unwrap_err();
    let own = std::process::id();
    assert!(
        matches!(error, AgentError::WrongProcess { pid: 1, holder } if holder == own),
        "{error}"
    );
}

#[test]
fn a_process_without_an_agent_and_no_process_say_what_to_do() {
    let own = std::process::id();
    let error = AgentClient::connect(own).unwrap_err().to_string();
    let expected = format!(
        "no agent in QEMU process {own}: start it with `pagelift run -- qemu-system-x86_64 ...`"
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
