//! A bucket of blocks behind one StoreAPI.
