//! What migrations by libvirt's protocol are told: descriptions of guests, cookies, parameters.

use pagelift_rpc::params::Params;
use pagelift_rpc::xdr::{Input, Xdr};
use pagelift_v3::cookie::{Arrival, Cookie, Phase};
use pagelift_v3::domain::{Domain, Flavour, differences};
use pagelift_v3::flags::Driver;
use pagelift_v3::params::Request;

/// A description of a guest: what is read, is written and read again as the same guest.
pub fn domain_xml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(domain) = Domain::parse(text) else {
        return;
    };
    let inactive = domain.to_xml(Flavour::Inactive);
    assert_eq!(Domain::parse(&inactive).as_ref(), Ok(&domain), "{inactive}");
    let migratable = domain.to_xml(Flavour::Migratable);
    let other = Domain::parse(&migratable).expect("it was written here");
    assert_eq!(differences(&domain, &other), [""; 0], "{migratable}");
}

/// A cookie, in each phase: what is read, is written and read again as the same.
pub fn migration_cookie(data: &[u8]) {
    let Some((first, data)) = data.split_first() else {
        return;
    };
    let phase = match first % 4 {
        0 => Phase::Prepare,
        1 => Phase::Perform,
        2 => Phase::Finish,
        _ => Phase::Confirm,
    };
    let uuid = "aaaaaaaa-0000-4000-8000-000000000001";
    let arrival = Arrival {
        phase,
        name: "g1",
        uuid: uuid.parse().expect("it is one"),
        own_host: pagelift_v3::domain::Uuid([0; 16]),
        offline: first & 4 != 0,
    };
    if let Ok(Some(cookie)) = Cookie::decode(data, &arrival) {
        let bytes = cookie.encode();
        assert_eq!(Cookie::decode(&bytes, &arrival), Ok(Some(cookie)));
    }
}

/// Flags and parameters of a migration.
pub fn migration_params(data: &[u8]) {
    let Some((flags, data)) = data.split_first_chunk() else {
        return;
    };
    let Ok(params) = Params::take(&mut Input::new(data)) else {
        return;
    };
    for driver in [Driver::Qemu, Driver::Vz] {
        let flags = u64::from(u32::from_be_bytes(*flags));
        let Ok(request) = Request::read(driver, "fuzz", flags, &params) else {
            continue;
        };
        assert_eq!(request.options.as_slice(), &params[..]);
        assert_eq!(u64::from(request.flags.bits()), flags);
        if let Some(uri) = &request.uri {
            let again = pagelift_v3::params::MigrateUri::parse(&uri.to_string());
            assert_eq!(again.as_ref(), Ok(uri));
        }
    }
}
