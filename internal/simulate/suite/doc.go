// Package suite reads test files for the failure handling of a pipeline and runs them: scenarios, which [simulate.Run] plays in virtual
// time, and single decisions. It compares what comes out with what the file expects, and says which strategies no test has reached.
//
// Reading is strict: an unknown key, a key that is there twice, a value of the wrong kind or a node that the pipeline does not have
// makes the file unusable, and every such place is reported with its line. A pipeline whose own load has errors is not tested either: it
// is not what a worker would decide by.
//
// docs/testing.md has the format.
package suite
