//! Typed parameters: a name, a type, a value.

use crate::xdr::{Input, List, Malformed, Xdr};

/// The most parameters of one call.
pub const MAX_PARAMS: usize = 64;

/// The parameters of a call, in the order in which they were sent.
pub type Params = List<TypedParam, MAX_PARAMS>;

/// The value of a parameter, with its type.
#[derive(Clone, Debug, PartialEq)]
pub enum TypedValue {
    /// Type 1.
    Int(i32),
    /// Type 2.
    UInt(u32),
    /// Type 3.
    LLong(i64),
    /// Type 4.
    ULLong(u64),
    /// Type 5.
    Double(f64),
    /// Type 6.
    Boolean(bool),
    /// Type 7.
    String(String),
}

impl TypedValue {
    /// The type's number on the wire.
    pub const fn type_number(&self) -> i32 {
        match self {
            Self::Int(_) => 1,
            Self::UInt(_) => 2,
            Self::LLong(_) => 3,
            Self::ULLong(_) => 4,
            Self::Double(_) => 5,
            Self::Boolean(_) => 6,
            Self::String(_) => 7,
        }
    }

    /// The type's name, as error messages have it.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Int(_) => "int",
            Self::UInt(_) => "uint",
            Self::LLong(_) => "llong",
            Self::ULLong(_) => "ullong",
            Self::Double(_) => "double",
            Self::Boolean(_) => "boolean",
            Self::String(_) => "string",
        }
    }
}

impl Xdr for TypedValue {
    fn put(&self, out: &mut Vec<u8>) {
        self.type_number().put(out);
        match self {
            Self::Int(value) => value.put(out),
            Self::UInt(value) => value.put(out),
            Self::LLong(value) => value.put(out),
            Self::ULLong(value) => value.put(out),
            Self::Double(value) => value.put(out),
            Self::Boolean(value) => value.put(out),
            Self::String(value) => value.put(out),
        }
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(match i32::take(input)? {
            1 => Self::Int(Xdr::take(input)?),
            2 => Self::UInt(Xdr::take(input)?),
            3 => Self::LLong(Xdr::take(input)?),
            4 => Self::ULLong(Xdr::take(input)?),
            5 => Self::Double(Xdr::take(input)?),
            // Clients may have any number for true.
            6 => Self::Boolean(i32::take(input)? != 0),
            7 => Self::String(Xdr::take(input)?),
            other => return Err(Malformed::BadValue(other)),
        })
    }
}

macro_rules! into_value {
    ($($kind:ty => $variant:ident),*) => {$(
        impl From<$kind> for TypedValue {
            fn from(value: $kind) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}

into_value!(i32 => Int, u32 => UInt, i64 => LLong, u64 => ULLong, f64 => Double, bool => Boolean,
    String => String, &str => String);

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct TypedParam {
    /// Its name: `migrate_uri`, `memory_total`.
    pub name: String,
    /// Its value.
    pub value: TypedValue,
}

impl TypedParam {
    /// The parameter `name` with `value`, whose Rust type says the type.
    pub fn new(name: impl Into<String>, value: impl Into<TypedValue>) -> Self {
        Self {
            name: name.into(),
            value: value.into(),
        }
    }
}

impl Xdr for TypedParam {
    fn put(&self, out: &mut Vec<u8>) {
        self.name.put(out);
        self.value.put(out);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            name: Xdr::take(input)?,
            value: Xdr::take(input)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives() {
        let params: Params = vec![
            TypedParam::new("a", -1_i32),
            TypedParam::new("b", 2_u32),
            TypedParam::new("c", i64::MIN),
            TypedParam::new("d", u64::MAX),
            TypedParam::new("e", 0.5),
            TypedParam::new("f", true),
            TypedParam::new("g", "text"),
        ]
        .try_into()
        .unwrap();
        let mut bytes = Vec::new();
        params.put(&mut bytes);
        assert_eq!(Params::take(&mut Input::new(&bytes)), Ok(params));
    }

    #[test]
    fn sixty_four_are_the_most() {
        for (count, fits) in [(64, true), (65, false)] {
            let mut bytes = Vec::new();
            i32::put(&count, &mut bytes);
            for _ in 0..count {
                TypedParam::new("p", 1_i32).put(&mut bytes);
            }
            assert_eq!(
                Params::take(&mut Input::new(&bytes)).is_ok(),
                fits,
                "{count}"
            );
        }
    }

    #[test]
    fn an_unknown_type_is_refused() {
        let bytes = b"\0\0\0\x01p\0\0\0\0\0\0\x08\0\0\0\0";
        let error = TypedParam::take(&mut Input::new(bytes)).unwrap_err();
        assert_eq!(error, Malformed::BadValue(8));
    }
}
