// Package cli is what the commands of the tool for people share: how they write what they found, with which exit code they end,
// which of their flags the environment sets, and how they find the files that are named.
//
// The commands stand in two packages: offline needs files only, online needs a NATS server.
package cli
