//! Every option: name, section, unit, range, default.
