-- Invalidates what larder caches, for programs in any language. https://docs.rs/larder, module other_languages.
-- It is made of parts of the crate, which a test compares; copy the file as it is.
--
--   EVALSHA sha number-of-keys  {NS.0}!clock {NS.0}!log  [{NS.0}:KEY {NS.0}!lease:KEY]...  [{NS.0}!tag:TAG]...
--     'invalidate' | 'clear'  number-of-the-database  random-text   ->  OK
--   EVALSHA sha 2  {NS.0}!clock {NS.0}!log  'partitions' number-of-partitions   ->  OK if the namespace has so many or none

