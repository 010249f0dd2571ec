//! meta.json, marks, fetching and filtering block lists, upload, download, verify.
