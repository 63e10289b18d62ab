package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Stdin is the name that stands for standard input.
const Stdin = "-"

// Files returns the files that the arguments name, each once, in their order: a file as it is named, whatever its ending; a directory
// as all *.yaml and *.yml files in and below it, in the order of their names, .git and test files excepted. The error joins what is
// wrong with arguments that name nothing; the files of the others are returned all the same.
func Files(args []string) (files []string, err error) {
	return filesOf(args, false, "*.yaml or *.yml")
}

// TestFiles is [Files] for the test files of recourse test: a directory stands for the *_test.yaml and *_test.yml files.
func TestFiles(args []string) (files []string, err error) {
	return filesOf(args, true, "*_test.yaml or *_test.yml")
}

func isTestFile(name string) bool {
	return strings.HasSuffix(strings.TrimSuffix(name, filepath.Ext(name)), "_test")
}

func filesOf(args []string, tests bool, what string) (files []string, err error) {
	seen := make(map[string]bool)
	add := func(name string) {
		if clean := filepath.Clean(name); !seen[clean] {
			seen[clean] = true
			files = append(files, name)
		}
	}
	for _, arg := range args {
		if arg == Stdin {
			add(arg)
			continue
		}
		info, statErr := os.Stat(arg)
		switch {
		case statErr != nil:
			err = errors.Join(err, statErr)
		case !info.IsDir():
			add(arg)
		default:
			found, walkErr := yamlBelow(arg)
			found = slices.DeleteFunc(found, func(name string) bool { return isTestFile(name) != tests })
			if len(found) == 0 && walkErr == nil {
				walkErr = fmt.Errorf("%s: no %s file in it", arg, what)
			}
			err = errors.Join(err, walkErr)
			for _, name := range found {
				add(name)
			}
		}
	}
	return files, err
}

func yamlBelow(dir string) (files []string, err error) {
	// A file system of the directory also follows the directory's own name where it is a link.
	err = fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == ".git":
			return fs.SkipDir
		}
		full := filepath.Join(dir, filepath.FromSlash(name))
		if ext := strings.ToLower(filepath.Ext(name)); ext != ".yaml" && ext != ".yml" {
			return nil
		}
		if info, err := os.Stat(full); err == nil && !info.Mode().IsRegular() {
			return nil
		}
		files = append(files, full)
		return nil
	})
	return files, err
}

// Read returns the content of a file or of standard input, up to most bytes and one more: what is longer is cut, and whoever reads on
// sees that it is too long.
func Read(name string, stdin io.Reader, most int64) ([]byte, error) {
	if name == Stdin {
		content, err := io.ReadAll(io.LimitReader(stdin, most+1))
		if err != nil {
			return nil, fmt.Errorf("standard input: %w", err)
		}
		return content, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, most+1))
}
