//! The ways in which this crate makes an error.

/// Adds constructors to an error: each calls this function with the kind that the error is of then.
macro_rules! constructors {
    ($error:ident, $of:path: $($(#[$meta:meta])* $vis:vis $name:ident($($arg:ident: $type:ty),*) => $kind:expr;)*) => {
        impl $error {
            $(
                $(#[$meta])*
                $vis fn $name($($arg: $type),*) -> Self {
                    $of($kind)
                }
            )*
        }
    };
}

pub(crate) use constructors;
