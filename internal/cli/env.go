package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

const fromEnvironment = "recourse_from_environment"

// FromEnvironment marks flags that the environment sets where the command line does not; see [Fill].
func FromEnvironment(flags *pflag.FlagSet, names ...string) {
	for _, name := range names {
		// The flag was registered just before.
		if err := flags.SetAnnotation(name, fromEnvironment, nil); err != nil {
			panic(err)
		}
	}
}

// Variable returns the name of a flag's environment variable: RECOURSE_ and its name in capitals.
func Variable(flag string) string {
	return "RECOURSE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Fill sets the marked flags that were not given from the environment.
func Fill(flags *pflag.FlagSet, getenv func(string) string) (err error) {
	flags.VisitAll(func(f *pflag.Flag) {
		if _, marked := f.Annotations[fromEnvironment]; !marked || f.Changed || err != nil {
			return
		}
		variable := Variable(f.Name)
		if value := getenv(variable); value != "" {
			if bad := flags.Set(f.Name, value); bad != nil {
				err = fmt.Errorf("%s: %w", variable, bad)
			}
		}
	})
	return err
}
