//! The questions that users ask an error.

/// Adds questions to an error: whether the kind in this field is one of these.
macro_rules! predicates {
    ($error:ident, $field:tt: $($(#[$doc:meta])* $name:ident => $kinds:pat $(if $more:expr)?,)*) => {
        impl $error {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $name(&self) -> bool {
                    matches!(&self.$field, $kinds $(if $more)?)
                }
            )*
        }
    };
}

pub(crate) use predicates;
