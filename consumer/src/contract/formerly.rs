//! The name that a consumer had before.

use std::borrow::Cow;

/// The name that a consumer had before its present one; from
/// [`Consumer::formerly`](crate::Consumer::formerly) or the key `formerly` of `#[consumer]`.
///
/// The name of a consumer keys its checkpoint. A consumer that is given another name would start again
/// at the beginning of the log, and do everything twice. With its former name, it continues from the
/// checkpoint that it has; the guide [`deploying`](crate::guide::deploying#renaming-a-consumer) says
/// when and how.
///
/// ```
/// use consumer::Formerly;
///
/// assert_eq!(Formerly::name("users"), Formerly::Name("users".into()));
/// assert_eq!(Formerly::default(), Formerly::Unstated);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Formerly {
    /// Not declared. A consumer without a checkpoint then starts, unless it may be one of the
    /// same scope that the program no longer has.
    #[default]
    Unstated,
    /// None: the consumer is new.
    None,
    /// Its former name.
    Name(Cow<'static, str>),
}

impl Formerly {
    /// Returns the declaration of a former name.
    #[must_use]
    pub fn name(former: impl Into<Cow<'static, str>>) -> Self {
        Self::Name(former.into())
    }

    /// The former name, if one was given.
    #[cfg(all(feature = "worker", any(feature = "sqlite", feature = "postgres")))]
    pub(crate) fn former(&self) -> Option<&str> {
        match self {
            Self::Name(former) => Some(former),
            Self::Unstated | Self::None => None,
        }
    }
}
