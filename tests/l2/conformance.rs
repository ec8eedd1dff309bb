//! What every second level must do, on both of them.

use larder_store_tests::store_tests;

mod memory {
    use crate::store::Memory;

    super::store_tests!(Memory);
}

mod redis {
    use crate::store::Redis;

    super::store_tests!(Redis);
}
