//! Who asks, as far as limits care: the user, the client's address, and what a request carries beside them.
//!
//! Decides how header fields and claims become parts of a key. Never copies a field that stands once in a request.

use std::{borrow::Cow, fmt, net::IpAddr};

/// What a request carries, asked for only when a limit counts by it.
pub trait Attributes: fmt::Debug {
    /// The value of a header field, `None` when the request has none. Several fields of one name are one value,
    /// joined as RFC 9110 §5.3 says: a second field must not hide the first from the limit. `name` is in lower case.
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>>;

    /// A claim of the verified token as text: strings as they stand, numbers and booleans as JSON writes them. `None`
    /// for a claim that is missing or of another type, and for a request without a token.
    fn claim(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// A request that carries nothing.
impl Attributes for () {
    fn header(&self, _: &str) -> Option<Cow<'_, [u8]>> {
        None
    }

    fn claim(&self, _: &str) -> Option<Cow<'_, str>> {
        None
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The authenticated user.
    pub user: Option<&'a str>,
    /// The client's address.
    pub client: IpAddr,
    /// Header fields and claims.
    pub attributes: &'a dyn Attributes,
}
