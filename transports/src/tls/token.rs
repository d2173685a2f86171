//! A pre-shared token: a random number that both sides have been given.
//!
//! It is as strong as it is random, so it has a form that a password does not have: hexadecimal
//! digits, 128 bits or more. It never goes over the wire (see `welcome`).

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use pagelift_engine::sys::{SysError, random_number};

use super::files::{self, SecretFileError};

/// Fewest bytes of a token.
const LEAST_BYTES: usize = 16;

/// Most bytes of a token, and of what is read of a file.
const MOST_BYTES: usize = 64;

/// A pre-shared token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Vec<u8>);

/// Why something is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It does not look like one. Its text is not repeated: it may be a secret.
    #[error(
        "a token is {} to {} hexadecimal digits, as pagelift-receive prints it and \
         `openssl rand -hex 16` makes it; this is not",
        2 * LEAST_BYTES, 2 * MOST_BYTES
    )]
    Malformed,
    /// The file cannot be used.
    #[error("the token file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SecretFileError,
    },
}

impl Token {
    /// A new random token of 128 bits.
    ///
    /// # Errors
    /// When the kernel gives no random numbers.
    pub fn generate() -> Result<Self, SysError> {
        Ok(Self(random_number()?.to_be_bytes().to_vec()))
    }

    /// The token in the file `path`, which nobody but its owner and group may read.
    ///
    /// # Errors
    /// When the file cannot be read, others may read it, or it holds something else.
    pub fn from_file(path: &Path) -> Result<Self, TokenError> {
        let failed = |source| TokenError::File {
            path: path.to_owned(),
            source,
        };
        let read = |file: File| -> io::Result<String> {
            let mut text = String::new();
            file.take(4 * MOST_BYTES as u64).read_to_string(&mut text)?;
            Ok(text)
        };
        let file = files::open_secret(path).map_err(failed)?;
        let text = read(file).map_err(|error| failed(SecretFileError::Io(error)))?;
        text.trim().parse()
    }

    /// The key of the proofs.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its text, to be shown to the one who is to have it.
    pub fn reveal(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let bytes = files::hex(text).ok_or(TokenError::Malformed)?;
        match (LEAST_BYTES..=MOST_BYTES).contains(&bytes.len()) {
            true => Ok(Self(bytes)),
            false => Err(TokenError::Malformed),
        }
    }
}

/// Says nothing of its content.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn tokens_read_back_and_are_random_and_not_printed_by_chance() {
        let token = Token::generate().unwrap();
        assert_eq!(token.reveal().len(), 32);
        assert_eq!(token.reveal().parse::<Token>().unwrap(), token);
        assert_ne!(Token::generate().unwrap(), token);
        assert!(!format!("{token:?}").contains(&token.reveal()[..8]));
    }

    #[test]
    fn what_could_be_guessed_is_no_token() {
        for text in [
            "",
            "correct horse",
            "0123",
            &"a".repeat(31),
            &"f".repeat(130),
        ] {
            let error = text.parse::<Token>().unwrap_err().to_string();
            assert!(error.contains("32 to 128 hexadecimal digits"), "{error}");
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = Token::generate().unwrap();
        fs::write(&path, format!("{}\n", token.reveal())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Token::from_file(&path).unwrap(), token);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Token::from_file(&path).unwrap_err().to_string();
        for part in ["token", "0644", "chmod"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
