// Package pipeline reads what a Harness pipeline says about failures: the YAML of a v0 pipeline or template becomes a
// [decide.Plan], and everything that is wrong or doubtful about its failure handling becomes a [Diagnostic] with its place.
//
// [Load] goes in this order: the YAML is parsed into a tree of bounded size, in which aliases and merge keys are resolved; templates
// and inputs are put into it, where [Options] has some; the stages, step groups and steps are listed, the enclosing one first; the strategies of each are read; the rules that look at
// more than one strategy run over the whole (lint). It never stops at the first finding. [Resolve] writes the tree with its templates
// and inputs as YAML again: what is registered, and reads without them as the pipeline does with them. [Rules] lists the codes.
//
// # Guarantees
//
//   - Load does not panic and its time and memory are bounded, whatever the bytes: [MaxSize], [MaxDepth], [MaxValues],
//     [MaxNodes] and [MaxDiagnostics]. They hold for what templates make of a pipeline as well.
//   - An error means that the failure handling cannot be taken as written; a pipeline with one should not be registered. A
//     warning means that it can, and that somebody should know.
//   - A diagnostic points to where it is written: to the template or the inputs, where it is there.
//   - Diagnostics come sorted by place. Equal input gives an equal plan and equal diagnostics.
//   - What is not about failure handling or about the identity of a node is never refused: unknown keys, odd values, steps of
//     kinds nobody has heard of.
//
// # What it does not do
//
// It does not fetch templates from anywhere but a directory, evaluate expressions, or expand matrices. A node whose strategies it
// cannot see is listed without them and a diagnostic says so. It does not check anything else about a pipeline.
package pipeline
