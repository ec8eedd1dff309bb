//! The setters of builders.

/// Adds setters that consume the builder and return it: each assigns this value to this field.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) => $($field:ident).+ = $value:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, $($arg: $type),*) -> Self {
            self.$($field).+ = $value;
            self
        }
    )*};
}

pub(crate) use setters;
