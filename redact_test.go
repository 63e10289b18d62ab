package recourse

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

const canary = "C4nary0Secret7Value"

// secretTexts are the shapes in which a secret comes; the canary is the secret.
var secretTexts = []string{
	"password=" + canary,
	"password = " + canary,
	"Password: " + canary + ", user: jane",
	`password="` + canary + ` with blanks ` + canary + `"`,
	`password='` + canary + `'`,
	`password="` + canary, // cut off
	`password="with \" quote ` + canary + `"`,
	`{"password":"` + canary + `"}`,
	`{"password": "` + canary + `", "user": "jane"}`,
	`msg="{\"password\":\"` + canary + `\"}"`,
	`{\"api_key\": \"` + canary + `\", \"a\": 1}`,
	"passwd=" + canary + ";Server=db",
	"Server=db;User Id=sa;Password=" + canary + ";Encrypt=true",
	"pwd=" + canary,
	"DB_PASSWORD=" + canary,
	"db.password.value=" + canary,
	"db_password => " + canary,
	"passphrase: " + canary,
	"client_secret=" + canary + "&grant_type=x",
	"AWS_SECRET_ACCESS_KEY=" + canary,
	"access-key: " + canary,
	"AccountName=x;AccountKey=" + canary + "==;EndpointSuffix=y",
	"SharedAccessKey=" + canary,
	"https://blob/x?sv=1&sig=" + canary + "%3D&se=2",
	"api_key=" + canary, "apikey: " + canary, "api-key=" + canary, "X-Api-Key: " + canary,
	"private_key: " + canary,
	"GITHUB_PAT=" + canary, "pat=" + canary, `"pat": "` + canary + `"`,
	"credential=" + canary, "credentials: " + canary,
	"token=" + canary, "X-Vault-Token: " + canary, "access_token=" + canary, "refreshToken: " + canary,
	"deploy --token " + canary, "deploy --password=" + canary, "deploy --api-key " + canary + " --force",
	"curl -u jane:" + canary + " host", "curl --user jane:" + canary, "curl --user=jane:" + canary,
	"Authorization: Bearer " + canary,
	"authorization: bearer " + canary,
	"Authorization: Basic " + canary + "==",
	"Authorization: Token " + canary[:6],
	`Authorization: Digest username="jane", response=` + canary,
	`{"Authorization":"Bearer ` + canary + `"}`,
	`-H "Authorization: Bearer ` + canary + `"`,
	"proxy-authorization: NTLM " + canary,
	"Cookie: session=" + canary + "; other=" + canary,
	"Bearer " + canary,
	"https://jane:" + canary + "@git.example.com/x",
	"https://" + canary + "@git.example.com/x",
	"postgres://jane:p@" + canary + "@db/x",
	"git+ssh://jane:" + canary + "@host/repo",
	"redis://:" + canary + "@host:6379",
	`dial "amqp://guest:` + canary + `@mq:5672/"`,
	"jdbc:oracle:thin:scott/" + canary + "@//host:1521/x",
	"-----BEGIN RSA PRIVATE KEY-----\n" + canary + "\n-----END RSA PRIVATE KEY-----",
	"-----BEGIN PRIVATE KEY-----\n" + canary, // cut off
	`key: "-----BEGIN OPENSSH PRIVATE KEY-----\n` + canary + `\n-----END OPENSSH PRIVATE KEY-----"`,
	"-----BEGIN PGP PRIVATE KEY BLOCK-----\n" + canary + "\n-----END PGP PRIVATE KEY BLOCK-----",
}

// Tokens that show by themselves; the parts are joined here so that no scanner takes this file for a leak.
var bareTokens = []string{
	"gh" + "p_0123456789abcdefghijABCDEFGHIJ", "gh" + "s_0123456789abcdefghijABCDEFGHIJ", "github" + "_pat_0123456789abcdefghij_ABCDE",
	"gl" + "pat-0123456789abcdefghij", "xox" + "b-0123456789-abcdefghij", "AK" + "IA0123456789ABCDEF", "AS" + "IA0123456789ABCDEF",
	"AI" + "za0123456789abcdefghijABCDEFGHIJ012", "ey" + "JhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSM",
	"pa" + "t.AbCdEfGhIjKlMn.0123456789abcdef01234567.abcdefgh", "sa" + "t.AbCdEfGhIjKlMn.0123456789abcdef01234567.abcdefgh",
	"np" + "m_0123456789abcdefghijABCDEFGHIJ0123", "dckr" + "_pat_0123456789abcdefghijABCD", "hv" + "s.0123456789abcdefghijABCD",
	"sk" + "_live_0123456789abcdefghij",
}

func TestRedactSecrets(t *testing.T) {
	for _, text := range secretTexts {
		for _, around := range []string{"%", "step failed: % (exit code 1)", "line one\n%\nline three", "ünï %"} {
			in := strings.Replace(around, "%", text, 1)
			got := Redact(in)
			if strings.Contains(got, canary) || !strings.Contains(got, Redacted) {
				t.Errorf("Redact(%q) = %q", in, got)
			}
			if again := Redact(got); again != got {
				t.Errorf("redacted again %q becomes %q", got, again)
			}
		}
	}
	for _, token := range bareTokens {
		for _, in := range []string{token, "using " + token + " for x", "(" + token + ")", `"` + token + `"`, "x=" + token} {
			if got := Redact(in); strings.Contains(got, token) || strings.Contains(got, token[len(token)-6:]) {
				t.Errorf("Redact(%q) = %q", in, got)
			}
		}
	}
}

// TestRedactKeeps: what is around a secret stays, and so do ordinary messages.
func TestRedactKeeps(t *testing.T) {
	for _, row := range [][2]string{
		{"login of jane with password=x1 at db", "login of jane with password=[redacted] at db"},
		{"https://jane:x@host/path?q=1", "https://[redacted]@host/path?q=1"},
		{"Authorization: Bearer abc\nHost: x", "Authorization: [redacted]\nHost: x"},
		{`{"user":"jane","password":"x","host":"db"}`, `{"user":"jane","password":"[redacted]","host":"db"}`},
		{"deploy --token abc --env prod", "deploy --token [redacted] --env prod"},
	} {
		if got := Redact(row[0]); got != row[1] {
			t.Errorf("Redact(%q) = %q, want %q", row[0], got, row[1])
		}
	}
	for _, text := range []string{
		"token bucket is full",
		"token authentication failed",
		"authentication failed: password expired",
		"authorization failed: forbidden",
		"basic authentication is disabled",
		"bearer authentication required",
		"the password is wrong",
		"secret not found",
		"no such file: path=/x",
		"path: /var/lib/x", "PATH=/usr/bin:/bin",
		"dispatch: ok", "compat: yes", "pattern: ^a$", "patch=3", "pattern=abc",
		"key not found: pods",
		"keyboard interrupt",
		"primary key: id", "foreign_key=id", "monkey: x",
		"GET https://example.com/a@b returned 404",
		"https://example.com:8080/x failed",
		"pull registry.example.com/app@sha256:0123456789abcdef",
		"user jane@example.com has no access",
		"signal: killed", "design: x", "assign=1",
		"dial tcp 10.0.0.1:443: connect: connection refused",
		"exit status 1",
		"deployment exceeded its progress deadline",
		"rm -u x", "date -u",
	} {
		if got := Redact(text); got != text {
			t.Errorf("Redact(%q) = %q, want it as it is", text, got)
		}
	}
}

func TestRedactCuts(t *testing.T) {
	for _, n := range []int{MaxMessageLength - 1, MaxMessageLength, MaxMessageLength + 1, 3 * MaxMessageLength} {
		if got := Redact(strings.Repeat("a", n)); len(got) != min(n, MaxMessageLength) {
			t.Errorf("%d bytes are cut to %d", n, len(got))
		}
	}
	for shift := range 4 {
		got := Redact(strings.Repeat("a", shift) + strings.Repeat("🙂", 2000))
		if !utf8.ValidString(got) || len(got) > MaxMessageLength || len(got) < MaxMessageLength-3 {
			t.Errorf("cut at %d bytes, valid %v", len(got), utf8.ValidString(got))
		}
	}
	if got := Redact("a\xffb"); got != "a\uFFFDb" {
		t.Errorf("not UTF-8 becomes %q", got)
	}
	if got := Redact(""); got != "" {
		t.Errorf("nothing becomes %q", got)
	}
}

// TestRedactAcrossTheCut: wherever a secret stands, also across one of the cuts and behind others that make the text shorter, no more than
// four characters of it are left.
func TestRedactAcrossTheCut(t *testing.T) {
	shrinks := "-----BEGIN PRIVATE KEY-----" + strings.Repeat("A", 7000) + "-----END PRIVATE KEY-----"
	secrets := []string{"https://jane:" + canary + "@host/x", "password=" + canary, "gh" + "p_" + canary + canary, "Bearer " + canary, `token: "` + canary + `"`}
	for _, secret := range secrets {
		for _, before := range []string{"", shrinks} {
			for _, at := range []int{MaxMessageLength, 2 * MaxMessageLength} {
				for offset := at - len(secret) - 3; offset < at+3; offset++ {
					if offset < len(before) {
						continue
					}
					text := before + strings.Repeat(".", offset-len(before)-1) + " " + secret + " end"
					if got := Redact(text); strings.Contains(got, canary[:5]) || len(got) > MaxMessageLength {
						t.Fatalf("%q at %d: %q", secret, offset, got[max(0, len(got)-80):])
					}
				}
			}
		}
	}
}

// TestRedactHostile: no text takes long.
func TestRedactHostile(t *testing.T) {
	units := append([]string{
		"password=", `password="`, `password=\"`, "a", "a://", "a.", "://a:b", "-----BEGIN PRIVATE KEY-----", "token ", "Bearer a", "eyJ", "pat.",
		"sig=", "--token", "--", `\`, `"`, "Authorization: ", "https://a@", "key_", "passwordpassword", "jdbc:a:", "-u ", "A", "0",
	}, secretTexts...)
	for _, unit := range units {
		text := strings.Repeat(unit, 1+2*MaxMessageLength/len(unit))
		start := time.Now()
		Redact(text)
		if took := time.Since(start); took > time.Second {
			t.Errorf("%d bytes of %q take %s", len(text), unit, took)
		}
	}
}

func FuzzRedact(f *testing.F) {
	for _, s := range secretTexts {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := Redact(text)
		if len(got) > MaxMessageLength || !utf8.ValidString(got) {
			t.Fatalf("%d bytes, valid %v", len(got), utf8.ValidString(got))
		}
		sameWithoutHints(t, text)
	})
}

// TestHints shows that looking for the hints of secrets first changes nothing but the time it takes.
func TestHints(t *testing.T) {
	texts := append(slices.Clone(secretTexts), bareTokens...)
	for _, text := range texts {
		sameWithoutHints(t, text)
		for i := range text { // cut, and with something in its place
			sameWithoutHints(t, text[:i])
			sameWithoutHints(t, text[i:])
			sameWithoutHints(t, text[:i]+" "+text[i:])
			sameWithoutHints(t, text[:i]+"-"+text[i:])
		}
		sameWithoutHints(t, strings.ToUpper(text))
		sameWithoutHints(t, strings.ReplaceAll(text, "k", "\u212a"))
	}
	// Words that are hints, and joints that a shape may have beside them, at random.
	parts := []string{canary, "=", ":", " ", "\n", "\\", `"`, "'", "-", "--", "_", ".", "@", "/", "1", "x", "api", "shared", "nature", "s", "ſ", "é"}
	for _, s := range secrets {
		parts = append(parts, s.hints...)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		var b strings.Builder
		for range 2 + r.IntN(8) {
			b.WriteString(parts[r.IntN(len(parts))])
		}
		sameWithoutHints(t, b.String())
	}
}

func sameWithoutHints(t *testing.T, text string) {
	t.Helper()
	if text == "" {
		return
	}
	if got, want := Redact(text), redact(lookedAt(text), 1<<len(secrets)-1); got != want {
		t.Fatalf("%q: with hints %q, without %q", text, got, want)
	}
}

func BenchmarkRedact(b *testing.B) {
	for name, text := range map[string]string{
		"words":  strings.Repeat("path /usr/share: the key of the token might have passed its signature; ", 10),
		"plain":  "dial tcp 10.0.0.1:443: connect: connection refused",
		"secret": "login failed: password=" + canary + " at https://jane:x@host/",
		"8 KiB":  strings.Repeat("step failed: password is wrong; ", 256),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Redact(text)
			}
		})
	}
}
