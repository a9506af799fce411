//! Values with a form of their own, as JSON Schema sees them.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

macro_rules! values {
    ($($(#[doc = $doc:literal])* $type:ident = $schema:tt;)*) => {
        $(
            $(#[doc = $doc])*
            pub(super) struct $type;

            impl JsonSchema for $type {
                fn schema_name() -> Cow<'static, str> {
                    stringify!($type).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!($schema)
                }
            }
        )*
    };
}

values! {
    /// The one version there is.
    Version = { "const": 1 };
    /// A name that the author chooses.
    Name = { "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" };
    /// A duration with its unit.
    Duration = { "type": "string", "pattern": "^\\s*[0-9]+\\s*(us|ms|s|min|h|d)\\s*$", "examples": ["250ms", "30s"] };
    /// Requests per period.
    Rate = { "type": "string", "pattern": "^\\s*[0-9]+\\s*/", "examples": ["600/min", "5000/s"] };
    /// Requests per civil day or month.
    CalendarQuota = { "type": "string", "pattern": "^\\s*[0-9]+\\s*/\\s*(day|month)\\s*$", "examples": ["10000/day"] };
    /// A name of the IANA time zone database.
    TimeZone = { "type": "string", "examples": ["Europe/Berlin", "UTC"] };
    /// Open up to so many times the limit.
    OpenCap = { "type": "string", "pattern": "^open\\([0-9]+(\\.[0-9]{1,4})?\\)$", "examples": ["open(1.5)"] };
    /// A response status, or a class of them.
    Status = { "anyOf": [
        { "type": "string", "pattern": "^[1-5]xx$", "examples": ["5xx"] },
        { "type": "integer", "minimum": 100, "maximum": 599 }
    ] };
    /// The address of a Redis.
    RedisUrl = { "type": "string", "pattern": "^rediss?://", "examples": ["redis://127.0.0.1:6379/0"] };
    /// Bytes with their unit.
    ByteSize = { "type": "string", "pattern": "^\\s*[0-9]+\\s*(B|KiB|MiB|GiB|kB|MB|GB)\\s*$", "examples": ["1MiB"] };
    /// A share of a whole.
    Percentage = { "type": "string", "pattern": "^\\s*[0-9]+(\\.[0-9]{1,2})?\\s*%\\s*$", "examples": ["1%"] };
    /// A figure with the side that is right.
    Bound = { "type": "string", "pattern": "^\\s*[<>]=", "examples": ["<= 5000", ">= 99.9%"] };
    /// What a step waits for.
    Condition = {
        "type": "string",
        "examples": ["leader in eu-west", "limits degraded in eu-west", "revision >= 3", "admitted of orders >= 100"]
    };
    /// How load is spread over users.
    Distribution = { "type": "string", "pattern": "^(in-turn|uniform|zipf( [0-9.]+)?)$", "examples": ["zipf 1.0"] };
    /// A duration, with a sign where both directions make sense.
    Shift = { "type": "string", "pattern": "^\\s*[+-]?[0-9]+\\s*(us|ms|s|min|h|d)\\s*$", "examples": ["50ms", "-5s"] };
    /// How fast a clock gains on true time.
    Drift = { "type": "string", "pattern": "^\\s*[+-]?[0-9]", "examples": ["200ppm", "-1%"] };
    /// A load as a share of the usual one.
    Load = { "type": "string", "examples": ["x3", "150%"] };
    /// An endpoint that speaks HTTP in clear text.
    Endpoint = { "type": "string", "pattern": "^http://", "examples": ["http://127.0.0.1:9101"] };
    /// A host, a suffix with `*.` before it, or `*`.
    HostPattern = { "type": "string", "examples": ["api.example.test", "*.example.test"] };
    /// A path, or a path with everything below it.
    PathPattern = { "type": "string", "pattern": "^/", "examples": ["/orders", "/orders/**"] };
    /// An IP address with a port.
    SocketAddress = { "type": "string", "examples": ["127.0.0.1:8443", "[::1]:8443"] };
    /// A network prefix.
    Prefix = { "type": "string", "examples": ["192.0.2.0/24", "2001:db8::/48"] };
    /// An order as on the command line.
    OperatorVerb = { "type": "string", "pattern": "^\\s*(drain|restore|apply|rollback|limits\\s+(fence|unfence))\\s", "examples": ["drain eu-west --reason test"] };
    /// Every region, or a list of some.
    Regions = {
        "anyOf": [{ "const": "all" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }]
    };
}
