// Package online has the commands that talk to a NATS server: what they publish goes through the client package, what they show they
// read from the streams, with the permissions of a viewer.
package online
