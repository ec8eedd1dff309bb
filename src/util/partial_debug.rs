//! `Debug` for types that hold more than can be shown.

/// Implements `Debug` for a type, with these fields and a sign that there is more.
macro_rules! partial_debug {
    (
        $(#[$doc:meta])*
        [$($generics:tt)*] $type:ty, $name:literal $(, $this:ident => $($field:ident: $shown:expr),+)?
    ) => {
        $(#[$doc])*
        impl<$($generics)*> std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut debug = f.debug_struct($name);
                $(
                    let $this = self;
                    $(debug.field(stringify!($field), $shown);)+
                )?
                debug.finish_non_exhaustive()
            }
        }
    };
}

pub(crate) use partial_debug;
