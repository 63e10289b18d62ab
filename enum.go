package recourse

import (
	"fmt"
	"math/bits"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// enumName returns names[i], "" outside of them.
func enumName(names []string, i int) string {
	if i < 0 || i >= len(names) {
		return ""
	}
	return names[i]
}

// enumByName indexes names by themselves and by their lower-case form; position 0 stands for "not set" and is left out.
func enumByName(names []string) map[string]uint8 {
	index := make(map[string]uint8, 2*len(names))
	for i, name := range names[1:] {
		index[name] = uint8(i + 1)
		index[strings.ToLower(name)] = uint8(i + 1)
	}
	return index
}

// enumLookup finds name in an index made by enumByName, ignoring case. The written form is found without a new string.
func enumLookup(index map[string]uint8, name string) (uint8, bool) {
	if i, ok := index[name]; ok {
		return i, true
	}
	i, ok := index[strings.ToLower(name)]
	return i, ok
}

// writeNames writes the members of a bit set as an array of their names, lowest bit first.
func writeNames(enc *jsontext.Encoder, names []string, set uint32) error {
	if err := enc.WriteToken(jsontext.BeginArray); err != nil {
		return err
	}
	for rest := set; rest != 0; rest &= rest - 1 {
		if err := enc.WriteToken(jsontext.String(enumName(names, bits.TrailingZeros32(rest)))); err != nil {
			return err
		}
	}
	return enc.WriteToken(jsontext.EndArray)
}

// readNames reads an array of names into a bit set; parse returns the bit of a name.
func readNames(dec *jsontext.Decoder, parse func(string) (uint8, error)) (uint32, error) {
	token, err := dec.ReadToken()
	if err != nil {
		return 0, err
	}
	if token.Kind() != '[' {
		return 0, fmt.Errorf("an array of names is wanted, not %s", token.Kind())
	}
	var set uint32
	for dec.PeekKind() != ']' {
		token, err := dec.ReadToken()
		if err != nil {
			return 0, err
		}
		if token.Kind() != '"' {
			return 0, fmt.Errorf("a name is wanted, not %s", token.Kind())
		}
		bit, err := parse(token.String())
		if err != nil {
			return 0, err
		}
		set |= 1 << bit
	}
	_, err = dec.ReadToken()
	return set, err
}
