package integration

import (
	"net"
	"strings"
	"sync"
	"testing"
)

// proxy stands between a worker and its server and spoils what the server says.
type proxy struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	deaf  bool // what the server says is dropped
	conns map[net.Conn]net.Conn
}

// startProxy returns a proxy to a server and its URL.
func startProxy(t *testing.T, url string) (*proxy, string) {
	t.Helper()
	p := &proxy{target: strings.TrimPrefix(url, "nats://"), conns: map[net.Conn]net.Conn{}}
	p.listener = must(net.Listen("tcp", "127.0.0.1:0"))(t)
	t.Cleanup(func() { _ = p.listener.Close(); p.cut() })
	go func() {
		for {
			client, err := p.listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", p.target)
			if err != nil {
				_ = client.Close()
				continue
			}
			p.mu.Lock()
			p.conns[client] = server
			p.mu.Unlock()
			go p.pass(client, server, func() bool { return false })
			go p.pass(server, client, func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.deaf })
		}
	}()
	return p, "nats://" + p.listener.Addr().String()
}

func (p *proxy) pass(from, to net.Conn, drop func() bool) {
	defer func() { _ = from.Close(); _ = to.Close() }()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if drop() {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// loseReplies drops everything the server says until the connections are cut.
func (p *proxy) loseReplies() {
	p.mu.Lock()
	p.deaf = true
	p.mu.Unlock()
}

// cut closes all connections; new ones are whole.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for client, server := range p.conns {
		_, _ = client.Close(), server.Close()
	}
	clear(p.conns)
	p.deaf = false
}

// say sends the clients a word of the server's protocol.
func (p *proxy) say(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for client := range p.conns {
		_, _ = client.Write([]byte(line + "\r\n"))
	}
}
