//! How the data of a migration are compressed.

use pagelift_rpc::error::{Error, ErrorCode};

use super::{Key, Options, Param};
use crate::flags::{Flags, refused};

/// A way to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Differences to what a page was before.
    Xbzrle,
    /// Blocks by threads; no longer in QEMU since 9.1.
    Mt,
    /// zlib on each of several connections.
    Zlib,
    /// zstd on each of several connections.
    Zstd,
}

impl Method {
    const ALL: [Self; 4] = [Self::Xbzrle, Self::Mt, Self::Zlib, Self::Zstd];

    /// The name in parameters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xbzrle => "xbzrle",
            Self::Mt => "mt",
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
        }
    }

    /// What tunes the method: its keys, and the range of those that are numbers of 32 bits.
    const fn tuned_by(self) -> &'static [(Key<i32>, i32, i32)] {
        match self {
            Self::Xbzrle => &[],
            Self::Mt => &[
                (Param::MT_LEVEL, 0, 9),
                (Param::MT_THREADS, 1, 255),
                (Param::MT_DTHREADS, 1, 255),
            ],
            Self::Zlib => &[(Param::ZLIB_LEVEL, 0, 9)],
            Self::Zstd => &[(Param::ZSTD_LEVEL, 0, 20)],
        }
    }

    /// Whether it works on several connections, and on those only.
    const fn is_parallel(self) -> bool {
        matches!(self, Self::Zlib | Self::Zstd)
    }
}

/// How the data of a migration are compressed: by none, one or several methods.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Compression(Vec<Method>);

impl Compression {
    /// Reads the methods, and looks at what tunes them.
    ///
    /// # Errors
    ///
    /// Code 8 for unknown or doubled methods, for those that do not go with the number of
    /// connections, and for what tunes a method that is not asked for.
    pub fn read(flags: Flags, options: &Options) -> Result<Self, Error> {
        let invalid = |detail: String| Err(refused(ErrorCode::InvalidArgument, detail));
        let mut methods = Vec::new();
        for name in options.all(Param::COMPRESSION) {
            let Some(method) = Method::ALL.into_iter().find(|m| m.name() == name) else {
                return invalid(format!("Unsupported compression method '{name}'"));
            };
            if methods.contains(&method) {
                return invalid(format!("Compression method '{name}' is specified twice"));
            }
            methods.push(method);
        }
        let parallel = flags.has(Flags::PARALLEL);
        for method in &methods {
            let name = method.name();
            if method.is_parallel() && !parallel {
                return invalid(format!(
                    "Compression method '{name}' is only supported with parallel migration"
                ));
            }
            if !method.is_parallel() && parallel {
                return invalid(format!(
                    "Compression method '{name}' isn't supported with parallel migration"
                ));
            }
        }
        if parallel && methods.len() > 1 {
            return invalid(
                "Only one compression method could be specified with parallel \
                            compression"
                    .into(),
            );
        }
        if flags.has(Flags::COMPRESSED) && methods.is_empty() {
            if parallel {
                return invalid("No compression algorithm selected for parallel migration".into());
            }
            methods.push(Method::Xbzrle);
        }
        let compression = Self(methods);
        for method in Method::ALL {
            for (key, least, most) in method.tuned_by() {
                if options.has(*key) && !compression.has(method) {
                    return invalid(format!("Turn {} compression on to tune it", method.name()));
                }
                super::request::in_range(options, *key, *least, *most)?;
            }
        }
        if options.has(Param::XBZRLE_CACHE) && !compression.has(Method::Xbzrle) {
            return invalid("Turn xbzrle compression on to tune it".into());
        }
        Ok(compression)
    }

    /// Whether `method` is one of the methods.
    #[must_use]
    pub fn has(&self, method: Method) -> bool {
        self.0.contains(&method)
    }

    /// The method of several connections, by QEMU's name.
    #[must_use]
    pub fn parallel(&self) -> Option<&'static str> {
        self.0.iter().find(|m| m.is_parallel()).map(|m| m.name())
    }
}
