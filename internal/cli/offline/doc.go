// Package offline has the commands that need files only: validate, explain, simulate and test. Nothing in it talks to a server.
package offline
