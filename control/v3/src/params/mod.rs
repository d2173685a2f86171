//! What a migration is told beside its flags: libvirt's typed parameters.
//!
//! A list is read as a whole and then known to hold only parameters that the driver knows, of their
//! types, once each unless they may be repeated. Order is kept, because clients see it again.

mod compression;
mod request;
mod table;
mod uri;

pub use compression::{Compression, Method};
pub use request::{BANDWIDTH_MAX, Request, bandwidth};
pub use table::{Kind, Param, TABLE};
pub use uri::MigrateUri;

use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};
use pagelift_rpc::params::{TypedParam, TypedValue};

use crate::flags::Driver;

/// The name of a parameter, with the type of its value.
#[derive(Debug)]
pub struct Key<T> {
    /// The name on the wire.
    pub name: &'static str,
    value: std::marker::PhantomData<fn() -> T>,
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> Key<T> {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self {
            name,
            value: std::marker::PhantomData,
        }
    }
}

/// A type that values have in Rust.
pub trait Value<'a>: Sized {
    /// The value, if it is of this type.
    fn of(value: &'a TypedValue) -> Option<Self>;
}

impl<'a> Value<'a> for &'a str {
    fn of(value: &'a TypedValue) -> Option<Self> {
        match value {
            TypedValue::String(text) => Some(text),
            _ => None,
        }
    }
}

impl Value<'_> for i32 {
    fn of(value: &TypedValue) -> Option<Self> {
        match value {
            TypedValue::Int(number) => Some(*number),
            _ => None,
        }
    }
}

impl Value<'_> for u64 {
    fn of(value: &TypedValue) -> Option<Self> {
        match value {
            TypedValue::ULLong(number) => Some(*number),
            _ => None,
        }
    }
}

/// Parameters that were read: known, of their types, none twice that may not be.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Options(Vec<TypedParam>);

impl Options {
    /// Reads the parameters of a call.
    ///
    /// # Errors
    ///
    /// Code 74 for a name that the driver does not know or cannot heed, code 8 for a wrong type or one that is there
    /// twice; both in no domain, as libvirt has it.
    pub fn read(driver: Driver, params: &[TypedParam]) -> Result<Self, Error> {
        for (at, param) in params.iter().enumerate() {
            let name = &param.name;
            let known = TABLE.iter().find(|p| p.name == *name && p.known_by(driver));
            let Some(known) = known else {
                let detail = format!("parameter '{name}' not supported");
                return Err(unplaced(ErrorCode::ArgumentUnsupported, detail));
            };
            let kind = param.value.type_name();
            if kind != known.kind.name() {
                let detail = format!(
                    "invalid type '{kind}' for parameter '{name}', expected '{}'",
                    known.kind.name()
                );
                return Err(unplaced(ErrorCode::InvalidArgument, detail));
            }
            if !known.repeats && params[..at].iter().any(|p| p.name == *name) {
                let detail = format!("parameter '{name}' occurs multiple times");
                return Err(unplaced(ErrorCode::InvalidArgument, detail));
            }
            if let (Driver::Qemu, Some(why)) = (driver, known.refused) {
                let detail = format!("parameter '{name}' not supported: {why}");
                return Err(unplaced(ErrorCode::ArgumentUnsupported, detail));
            }
        }
        Ok(Self(params.to_vec()))
    }

    /// The value of a parameter.
    #[must_use]
    pub fn get<'a, T: Value<'a>>(&'a self, key: Key<T>) -> Option<T> {
        self.all(key).next()
    }

    /// The values of a parameter that may be repeated, in their order.
    pub fn all<'a, T: Value<'a>>(&'a self, key: Key<T>) -> impl Iterator<Item = T> {
        let of_name = self.0.iter().filter(move |param| param.name == key.name);
        of_name.filter_map(|param| T::of(&param.value))
    }

    /// Whether a parameter was given.
    #[must_use]
    pub fn has<T>(&self, key: Key<T>) -> bool {
        self.0.iter().any(|param| param.name == key.name)
    }

    /// Puts a value in the place of the one that is there, or behind the others.
    pub fn set<T>(&mut self, key: Key<T>, value: impl Into<TypedValue>) {
        let param = TypedParam::new(key.name, value);
        match self.0.iter_mut().find(|p| p.name == key.name) {
            Some(place) => *place = param,
            None => self.0.push(param),
        }
    }

    /// Takes a parameter out.
    pub fn remove<T>(&mut self, key: Key<T>) {
        self.0.retain(|param| param.name != key.name);
    }

    /// The parameters, in their order.
    #[must_use]
    pub fn as_slice(&self) -> &[TypedParam] {
        &self.0
    }
}

fn unplaced(code: ErrorCode, detail: impl Into<String>) -> Error {
    Error::new(code, ErrorDomain::None, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(params: &[TypedParam]) -> (i32, i32, String) {
        let error = Options::read(Driver::Qemu, params).unwrap_err();
        (
            error.code.number(),
            error.domain.number(),
            error.message().to_owned(),
        )
    }

    #[test]
    fn parameters_are_refused_in_libvirts_words() {
        let unknown = [TypedParam::new("frob", 1)];
        let expected = (
            74,
            0,
            "argument unsupported: parameter 'frob' not supported".to_owned(),
        );
        assert_eq!(refusal(&unknown), expected);
        let kind = [TypedParam::new("bandwidth", 1)];
        let words = "invalid type 'int' for parameter 'bandwidth', expected 'ullong'";
        assert_eq!(refusal(&kind), (8, 0, format!("invalid argument: {words}")));
        let twice = [
            TypedParam::new("destination_xml", "a"),
            TypedParam::new("destination_xml", "a"),
        ];
        let words = "parameter 'destination_xml' occurs multiple times";
        assert_eq!(
            refusal(&twice),
            (8, 0, format!("invalid argument: {words}"))
        );
    }

    /// What was taken and not heeded would surprise whoever asked for it.
    #[test]
    fn what_is_not_heeded_is_refused() {
        for (param, why) in [
            (
                TypedParam::new("graphics_uri", "spice://a:1"),
                "not sent anywhere",
            ),
            (TypedParam::new("disks_port", 49_153), "have to be shared"),
            (
                TypedParam::new("disks_uri", "tcp://a:1"),
                "have to be shared",
            ),
        ] {
            let (code, domain, words) = refusal(&[param]);
            assert_eq!((code, domain), (74, 0), "{words}");
            assert!(words.contains(why), "{words}");
        }
    }

    #[test]
    fn values_are_found_by_key_in_their_order() {
        let params = [
            TypedParam::new("migrate_disks", "vdb"),
            TypedParam::new("bandwidth", 7_u64),
            TypedParam::new("migrate_disks", "vda"),
        ];
        let mut options = Options::read(Driver::Qemu, &params).unwrap();
        assert_eq!(
            options.all(Param::MIGRATE_DISKS).collect::<Vec<_>>(),
            ["vdb", "vda"]
        );
        assert_eq!(options.get(Param::BANDWIDTH), Some(7));
        assert_eq!(options.get(Param::MIGRATE_URI), None);
        options.set(Param::MIGRATE_URI, "tcp:a:1");
        options.set(Param::BANDWIDTH, 8_u64);
        assert_eq!(options.as_slice()[1], TypedParam::new("bandwidth", 8_u64));
        assert_eq!(
            options.as_slice()[3],
            TypedParam::new("migrate_uri", "tcp:a:1")
        );
    }

    #[test]
    fn vz_knows_four() {
        for param in TABLE {
            let value: TypedValue = match param.kind {
                Kind::Int => 1.into(),
                Kind::ULLong => 1_u64.into(),
                Kind::String => "a".into(),
            };
            let taken = Options::read(Driver::Vz, &[TypedParam::new(param.name, value)]).is_ok();
            let four = [
                "destination_xml",
                "migrate_uri",
                "destination_name",
                "bandwidth",
            ];
            assert_eq!(taken, four.contains(&param.name), "{}", param.name);
        }
    }
}
