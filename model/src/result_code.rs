//! Results of state changes and errors of configuration requests, with the texts and exit codes of drbdsetup.
