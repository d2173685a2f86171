//! Declarations of structs and procedures whose encoding is the order of what they declare.

/// Structs that are encoded field by field, in the order in which they are written.
macro_rules! xdr_structs {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $($(#[$field_meta])* pub $field: $kind,)* }

        impl $crate::xdr::Xdr for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::xdr::Xdr::put(&self.$field, out);)*
            }

            fn take(input: &mut $crate::xdr::Input<'_>) -> Result<Self, $crate::xdr::Malformed> {
                Ok(Self { $($field: $crate::xdr::Xdr::take(input)?,)* })
            }
        }
    )*};
}

/// Procedures: the name of a table of them, then `Name = number, Arguments => Reply;`.
macro_rules! procedures {
    ($table:ident; $($(#[$meta:meta])* $name:ident = $number:literal, $args:ty => $reply:ty;)*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Copy, Debug)]
            pub struct $name;

            impl $crate::calls::Procedure for $name {
                const NUMBER: i32 = $number;
                type Args = $args;
                type Reply = $reply;
            }
        )*

        /// The procedures of this module.
        pub(super) const $table: &[$crate::calls::Entry] = &[$($crate::calls::Entry::of::<$name>(),)*];
    };
}

/// Numbers that the peer knows, and may be sent others: an enum of those that have a name here.
macro_rules! numbers {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)*
            /// One that has no name here.
            Other(i32),
        }

        impl $name {
            /// The number on the wire.
            pub const fn number(self) -> i32 {
                match self {
                    $(Self::$variant => $number,)*
                    Self::Other(number) => number,
                }
            }

            /// What `number` is.
            pub const fn from_number(number: i32) -> Self {
                match number {
                    $($number => Self::$variant,)*
                    other => Self::Other(other),
                }
            }
        }

        impl $crate::xdr::Xdr for $name {
            fn put(&self, out: &mut Vec<u8>) {
                self.number().put(out);
            }

            fn take(input: &mut $crate::xdr::Input<'_>) -> Result<Self, $crate::xdr::Malformed> {
                i32::take(input).map(Self::from_number)
            }
        }
    };
}

pub(crate) use {numbers, procedures, xdr_structs};
