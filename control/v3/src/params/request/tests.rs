//! What goes together and what does not, as libvirt 11.3 has it.

use super::*;
use pagelift_rpc::params::TypedValue;

fn read(flags: Flags, params: &[(&str, TypedValue)]) -> Result<Request, Error> {
    let params: Vec<_> = params
        .iter()
        .map(|(name, value)| TypedParam::new(*name, value.clone()))
        .collect();
    Request::read(Driver::Qemu, "f", u64::from(flags.bits()), &params)
}

fn refusal(flags: Flags, params: &[(&str, TypedValue)]) -> (i32, String) {
    let error = read(flags, params).unwrap_err();
    (error.code.number(), error.message().to_owned())
}

/// What a libvirt 11.3 notices in Perform or Prepare, when the target's QEMU runs already.
#[test]
fn wrong_options_are_refused_before_anything_is_done() {
    const PARALLEL: Flags = Flags::PARALLEL;
    for (flags, params, code, words) in [
        (
            Flags::LIVE,
            vec![("auto_converge.initial", 20.into())],
            8,
            "Turn auto convergence on to tune it",
        ),
        (
            Flags::LIVE,
            vec![("parallel.connections", 2.into())],
            8,
            "Turn parallel migration on to tune it",
        ),
        (
            Flags::LIVE,
            vec![("compression", "zstd".into())],
            8,
            "Compression method 'zstd' is only supported with parallel migration",
        ),
        (
            PARALLEL,
            vec![("compression", "xbzrle".into())],
            8,
            "Compression method 'xbzrle' isn't supported with parallel migration",
        ),
        (
            PARALLEL | Flags::COMPRESSED,
            vec![],
            8,
            "No compression algorithm selected for parallel migration",
        ),
        (
            Flags::LIVE,
            vec![("compression", "frob".into())],
            8,
            "Unsupported compression method 'frob'",
        ),
        (
            Flags::LIVE,
            vec![("compression", "mt".into()), ("compression", "mt".into())],
            8,
            "Compression method 'mt' is specified twice",
        ),
        (
            PARALLEL,
            vec![
                ("compression", "zlib".into()),
                ("compression.zstd.level", 3.into()),
            ],
            8,
            "Turn zstd compression on to tune it",
        ),
        (
            PARALLEL,
            vec![
                ("compression", "zstd".into()),
                ("compression.zstd.level", 21.into()),
            ],
            8,
            "compression.zstd.level is 21, and has to be 0 to 20",
        ),
        (
            Flags::LIVE,
            vec![("bandwidth", (BANDWIDTH_MAX + 1).into())],
            82,
            "bandwidth must be less than 8796093022208 MiB/s",
        ),
        (
            Flags::LIVE,
            vec![("migrate_uri", "http://dst:1".into())],
            74,
            "unsupported scheme http in migration URI http://dst:1",
        ),
        (
            Flags::LIVE,
            vec![("migrate_disks", "vda".into())],
            8,
            "disks are named, and none is to be copied",
        ),
    ] {
        let (got, message) = refusal(flags, &params);
        assert_eq!(got, code, "{message}");
        assert!(message.ends_with(words), "{message}");
    }
}

#[test]
fn what_this_qemu_lacks_is_refused() {
    let request = read(
        Flags::LIVE | Flags::COMPRESSED,
        &[("compression", "mt".into())],
    )
    .unwrap();
    let error = request
        .check_capabilities(|name| name != "compress")
        .unwrap_err();
    assert_eq!(
        (error.code.number(), error.message()),
        (
            74,
            "argument unsupported: Migration option 'compress' is not supported by QEMU binary"
        )
    );
    let request = read(Flags::LIVE | Flags::COMPRESSED, &[]).unwrap();
    assert!(request.compression.has(Method::Xbzrle));
    assert_eq!(request.check_capabilities(|_| true), Ok(()));
}

#[test]
fn options_of_real_migrations_are_taken() {
    let parallel = Flags::LIVE | Flags::PARALLEL | Flags::COMPRESSED;
    let params = [
        ("compression", "zstd".into()),
        ("parallel.connections", 2.into()),
        ("compression.zstd.level", 3.into()),
    ];
    assert_eq!(
        read(parallel, &params).unwrap().compression.parallel(),
        Some("zstd")
    );
    let converge = Flags::LIVE | Flags::AUTO_CONVERGE;
    let params = [
        ("auto_converge.initial", 20.into()),
        ("auto_converge.increment", 10.into()),
    ];
    assert!(read(converge, &params).is_ok());
    let params = [
        ("migrate_uri", "tcp://dst:50000".into()),
        ("listen_address", "::".into()),
    ];
    assert!(read(Flags::LIVE, &params).unwrap().uri.is_some());
}

#[test]
fn a_target_gets_the_parameters_of_the_sources_flags() {
    let params = [TypedParam::new("auto_converge.initial", 20)];
    let live = u64::from(Flags::LIVE.bits());
    assert!(Request::read(Driver::Qemu, "f", live, &params).is_err());
    assert!(Request::read_on_target(Driver::Qemu, "f", live, &params).is_ok());
}

#[test]
fn off_and_unsupported_are_told_apart() {
    assert!(read(Flags::LIVE, &[("pagelift.without", "compressed".into())]).is_ok());
    assert_eq!(
        refusal(
            Flags::COMPRESSED,
            &[("pagelift.without", "compressed".into())]
        )
        .0,
        8
    );
    assert_eq!(
        refusal(Flags::LIVE, &[("pagelift.without", "frob".into())]).0,
        8
    );
    let options =
        Options::read(Driver::Qemu, &[TypedParam::new("pagelift.without", "live")]).unwrap();
    let error = without(Driver::Vz, Flags::NONE, &options).unwrap_err();
    assert_eq!(error.code, ErrorCode::ArgumentUnsupported);
}
