//! Integration tests: real nodes over real sockets, real processes where a crash or the command line is the point.
