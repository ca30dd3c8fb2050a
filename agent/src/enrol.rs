//! Becoming a member and staying one: join with a token, renew with the certificate.

mod token;

pub use token::{JoinToken, TokenError};
