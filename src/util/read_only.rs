//! Structs whose fields users read, and do not write.

/// Declares a struct, and for each field the method by which users read it.
macro_rules! read_only {
    (
        $(#[$meta:meta])*
        $name:ident { $($(#[$doc:meta])* $method:ident => $field:ident: $type:ty,)* }
    ) => {
        $(#[$meta])*
        pub struct $name {
            $(pub(crate) $field: $type,)*
        }

        impl $name {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $method(&self) -> $type {
                    self.$field
                }
            )*
        }
    };
}

pub(crate) use read_only;
