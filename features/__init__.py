"""Data at rest: the lake and its commit protocol, snapshots, and training sets as queries."""
