//! A migration as it was asked for: flags and parameters that go together.
//!
//! A [`Request`] is made by one function, which is called in Begin with what the user gave and in Prepare
//! with what arrives. Nothing is done to a guest or a QEMU for a request that cannot be carried out.

use pagelift_rpc::error::{Error, ErrorCode};
use pagelift_rpc::params::TypedParam;

use super::{Compression, Key, Method, MigrateUri, Options, Param};
use crate::flags::{self, Driver, Flags, Support, refused};
use crate::safety::Risk;

/// The most that a rate can be, in MiB/s: what fits into QEMU's bytes a second.
pub const BANDWIDTH_MAX: u64 = (i64::MAX as u64) >> 20;

/// A migration as it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// How the guest is to move.
    pub flags: Flags,
    /// What else there is to say.
    pub options: Options,
    /// How the data are compressed.
    pub compression: Compression,
    /// Where the data are sent, if the user has said so.
    pub uri: Option<MigrateUri>,
    /// Risks that the user takes.
    pub risks: Vec<Risk>,
}

impl Request {
    /// Reads the flags and parameters of a call to `function` of `driver`, on the source.
    ///
    /// # Errors
    ///
    /// The first fault, with libvirt's code: 8, 55, 74 or 82.
    pub fn read(
        driver: Driver,
        function: &str,
        bits: u64,
        params: &[TypedParam],
    ) -> Result<Self, Error> {
        Self::read_with(driver, function, bits, params, Flags::NONE)
    }

    /// As [`Self::read`], on the target: it gets the parameters of flags that only the source gets.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn read_on_target(
        driver: Driver,
        function: &str,
        bits: u64,
        params: &[TypedParam],
    ) -> Result<Self, Error> {
        Self::read_with(driver, function, bits, params, Flags::SOURCE_ONLY)
    }

    fn read_with(
        driver: Driver,
        function: &str,
        bits: u64,
        params: &[TypedParam],
        elsewhere: Flags,
    ) -> Result<Self, Error> {
        let flags = Flags::read(driver, function, bits)?;
        flags::check(flags)?;
        let options = Options::read(driver, params)?;
        without(driver, flags, &options)?;
        let compression = Compression::read(flags, &options)?;
        let uri = options
            .get(Param::MIGRATE_URI)
            .map(MigrateUri::parse)
            .transpose()?;
        let risks = options
            .all(Param::FORCE)
            .map(Risk::read)
            .collect::<Result<_, _>>()?;
        check(flags | elsewhere, &options, uri.as_ref())?;
        Ok(Self {
            flags,
            options,
            compression,
            uri,
            risks,
        })
    }

    /// Refuses what this QEMU cannot do: `has` says whether it has a capability for migrations.
    ///
    /// # Errors
    ///
    /// Code 74 with the name of the capability that is missing.
    pub fn check_capabilities(&self, has: impl Fn(&str) -> bool) -> Result<(), Error> {
        let needed = [
            (self.compression.has(Method::Mt), "compress"),
            (self.compression.has(Method::Xbzrle), "xbzrle"),
            (self.flags.has(Flags::AUTO_CONVERGE), "auto-converge"),
            (self.flags.has(Flags::PARALLEL), "multifd"),
            (self.flags.has(Flags::POSTCOPY), "postcopy-ram"),
            (self.flags.has(Flags::ZEROCOPY), "zero-copy-send"),
        ];
        for (wanted, name) in needed {
            if wanted && !has(name) {
                let detail = format!("Migration option '{name}' is not supported by QEMU binary");
                return Err(refused(ErrorCode::ArgumentUnsupported, detail));
            }
        }
        if self.flags.has(Flags::POSTCOPY | Flags::PARALLEL) {
            let detail = "QEMU does not do post-copy over several connections";
            return Err(refused(ErrorCode::ArgumentUnsupported, detail));
        }
        Ok(())
    }
}

/// Options that are to be off: what a driver cannot do otherwise is not the same as what nobody asked for.
fn without(driver: Driver, flags: Flags, options: &Options) -> Result<(), Error> {
    for name in options.all(Param::WITHOUT) {
        let Some(flag) = Flags::named(name) else {
            let detail = format!("there is no migration flag '{name}'");
            return Err(refused(ErrorCode::InvalidArgument, detail));
        };
        if flags.has(flag) {
            let detail = format!("migration flag '{name}' is asked for and ruled out");
            return Err(refused(ErrorCode::InvalidArgument, detail));
        }
        let row = flags::TABLE.iter().find(|row| row.flag == flag);
        if row.is_some_and(|row| row.support(driver) == Support::Always) {
            let detail = format!("the driver cannot move a guest without '{name}'");
            return Err(refused(ErrorCode::ArgumentUnsupported, detail));
        }
    }
    Ok(())
}

fn check(flags: Flags, options: &Options, uri: Option<&MigrateUri>) -> Result<(), Error> {
    let invalid = |detail: &str| Err(refused(ErrorCode::InvalidArgument, detail));
    for key in [Param::CONVERGE_INITIAL, Param::CONVERGE_INCREMENT] {
        if options.has(key) && !flags.has(Flags::AUTO_CONVERGE) {
            return invalid("Turn auto convergence on to tune it");
        }
        in_range(options, key, 1, 99)?;
    }
    if options.has(Param::PARALLEL_CONNECTIONS) && !flags.has(Flags::PARALLEL) {
        return invalid("Turn parallel migration on to tune it");
    }
    in_range(options, Param::PARALLEL_CONNECTIONS, 1, 255)?;
    for key in [
        Param::BANDWIDTH,
        Param::BANDWIDTH_POSTCOPY,
        Param::BANDWIDTH_SWITCHOVER,
    ] {
        bandwidth(options.get(key).unwrap_or(0))?;
    }
    if options.has(Param::BANDWIDTH_POSTCOPY) && !flags.has(Flags::POSTCOPY) {
        return invalid("Turn post-copy migration on to tune it");
    }
    if options.has(Param::TLS_DESTINATION) && !flags.has(Flags::TLS) {
        return invalid("Turn TLS on to name its peer");
    }
    let disks = options.has(Param::MIGRATE_DISKS) || options.has(Param::MIGRATE_DISKS_ZEROES);
    if disks && !flags.has_any(Flags::STORAGE) {
        return invalid("disks are named, and none is to be copied");
    }
    if matches!(uri, Some(MigrateUri::Unix(_))) && options.has(Param::LISTEN_ADDRESS) {
        return invalid(
            "Usage of listen_address is forbidden when migration URI uses unix sockets",
        );
    }
    let places = options.has(Param::MIGRATE_URI) || options.has(Param::LISTEN_ADDRESS);
    if flags.has(Flags::TUNNELLED) && places {
        let detail = "a tunnelled migration has no address of its own";
        return Err(refused(ErrorCode::ArgumentUnsupported, detail));
    }
    Ok(())
}

/// Refuses a rate, in MiB/s, that QEMU cannot be told.
///
/// # Errors
///
/// Code 82.
pub fn bandwidth(mib_s: u64) -> Result<(), Error> {
    if mib_s <= BANDWIDTH_MAX {
        return Ok(());
    }
    let detail = format!("bandwidth must be less than {} MiB/s", BANDWIDTH_MAX + 1);
    Err(refused(ErrorCode::Overflow, detail))
}

/// Refuses a number outside of its range.
pub(super) fn in_range(
    options: &Options,
    key: Key<i32>,
    least: i32,
    most: i32,
) -> Result<(), Error> {
    match options.get(key) {
        Some(value) if !(least..=most).contains(&value) => {
            let detail = format!("{} is {value}, and has to be {least} to {most}", key.name);
            Err(refused(ErrorCode::InvalidArgument, detail))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
