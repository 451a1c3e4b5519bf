"""What a power cut leaves of the files of a process, from its system calls alone: no disk of its own is needed, and no root.

The process runs under strace. Where it is stopped its folder is copied as it looks, and then everything is taken away that was not
synced. Bytes written since the last fsync of a file are zero, or not. Of what was made, renamed or linked in a folder since its last
fsync the last steps are undone, or not. A seed decides. So much is what POSIX allows; file systems are mostly kinder, and what they all
do is counted on: fsync of a file that is new keeps its name as well. What was removed stays so, and what was replaced, too: its bytes
are not known any more.
"""
import glob, os, re, shutil

CALLS = "openat,openat2,open,creat,write,pwrite64,writev,pwritev,ftruncate,fallocate,fsync,fdatasync,rename,renameat,renameat2," \
    "link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,lseek,copy_file_range,close"
LINE = re.compile(rb"^(\d+\.\d+) (\w+)\((.*)\) += (-?\d+|0x[0-9a-f]+|\?)(?:<(.*?)>(?:\(deleted\))?)?[^<]*<([\d.]+)>$")
NAMED = re.compile(rb'^(?:AT_FDCWD<(?P<cwd>[^>]*)>|(?P<fd>\d+)<(?P<at>[^>]*)>(?:\(deleted\))?)$')


def command(prefix):
    """What stands before the command of the process that is traced."""
    return ["strace", "-D", "-ff", "-qq", "-ttt", "-T", "-y", "-s", "0", "-e", f"trace={CALLS}", "-e", "signal=none", "-o", prefix]


def split(text):
    """Arguments, separated by commas outside of quotes, brackets and paths."""
    arguments, depth, quoted, begin, at = [], 0, False, 0, 0
    while at < len(text):
        char = text[at:at + 1]
        if quoted:
            if char == b"\\":
                at += 1
            elif char == b'"':
                quoted = False
        elif char == b'"':
            quoted = True
        elif char in b"<{[":
            depth += 1
        elif char in b">}]":
            depth -= 1
        elif char == b"," and not depth:
            arguments.append(text[begin:at].strip())
            begin = at + 1
        at += 1
    return [*arguments, text[begin:].strip()]


def plain(quoted):
    """A quoted path as it is."""
    text = quoted.strip(b'"').decode("latin-1")
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


class File:
    def __init__(self):
        self.dirty, self.named_in = [], None


class Folder:
    def __init__(self):
        # Steps since the last sync, each what undoes it.
        self.steps = []


class Trace:
    """The state of the files below a folder, as far as the disk has them for certain."""
    def __init__(self, prefix, top):
        self.top, self.files, self.folders, self.at = os.fsencode(top), {}, {}, {}
        for _, _, thread, name, arguments, result, shown, begin in self.calls(prefix):
            try:
                getattr(self, f"on_{name}", lambda *_: None)(thread, split(arguments), int(result, 0), shown, begin)
            except (ValueError, IndexError, AttributeError) as error:
                raise RuntimeError(f"{name}({arguments!r}) is not understood: {error}")

    def calls(self, prefix):
        calls = []
        for log in glob.glob(f"{glob.escape(prefix)}.*"):
            for number, line in enumerate(open(log, "rb").read().splitlines()):
                found = LINE.match(line)
                if found and not found[4].startswith((b"-", b"?")):
                    begin, took = float(found[1]), float(found[6])
                    # In the order of their ends; a call counts from then on.
                    calls.append((begin + took, number, log, found[2].decode(), found[3], found[4], found[5], begin))
        return sorted(calls)

    def is_here(self, path):
        return path.startswith(self.top + b"/") or path == self.top

    def path(self, at, name=None):
        """An absolute path from a folder's descriptor and a name, or of a descriptor."""
        found = NAMED.match(at)
        base = (found["cwd"] or found["at"] or b"") if found else b""
        base = plain(b'"' + base + b'"')
        return base if name is None else os.path.normpath(os.path.join(base, plain(name)))

    def file(self, path):
        return self.files.setdefault(path, File())

    def folder(self, path):
        return self.folders.setdefault(path, Folder())

    def step(self, path, undo):
        self.folder(os.path.dirname(path)).steps.append(undo)

    # Calls.

    def on_openat(self, thread, arguments, result, shown, begin):
        path = self.path(arguments[0], arguments[1])
        shown = plain(b'"' + (shown or b"") + b'"')
        self.at[(shown, result)] = 0
        if b"O_TMPFILE" in arguments[2]:
            self.files[shown] = File()
        elif b"O_CREAT" in arguments[2] and self.is_here(path) and path not in self.files:
            self.made(path)
        elif b"O_TRUNC" in arguments[2] and self.is_here(path):
            self.file(path).dirty.append((0, None, begin))
        if b"O_APPEND" in arguments[2]:
            self.at[(shown, result)] = None

    def on_openat2(self, thread, arguments, result, shown, begin):
        self.on_openat(thread, arguments, result, shown, begin)

    def made(self, path):
        file = self.files[path] = File()
        undo = ("remove", path)
        file.named_in = (os.path.dirname(path), undo)
        self.step(path, undo)

    def wrote(self, argument, offset, length, begin):
        path = self.path(argument)
        if self.is_here(path) or b"/#" in path:
            self.file(path).dirty.append((offset, length, begin))

    def on_pwrite64(self, thread, arguments, result, shown, begin):
        self.wrote(arguments[0], int(arguments[3]), result, begin)

    def on_pwritev(self, thread, arguments, result, shown, begin):
        self.wrote(arguments[0], int(arguments[3]), result, begin)

    def descriptor(self, argument):
        return self.path(argument), int(argument.split(b"<")[0])

    def on_write(self, thread, arguments, result, shown, begin):
        key = self.descriptor(arguments[0])
        offset = self.at.get(key)
        # Where it was added nobody knows; all of it is in doubt then.
        self.wrote(arguments[0], offset or 0, result if offset is not None else None, begin)
        if offset is not None:
            self.at[key] = offset + result

    on_writev = on_write

    def on_lseek(self, thread, arguments, result, shown, begin):
        self.at[self.descriptor(arguments[0])] = result

    def on_fsync(self, thread, arguments, result, shown, begin):
        path = self.path(arguments[0])
        if path in self.folders:
            self.folders[path].steps.clear()
        if path in self.files:
            file = self.files[path]
            # What was written while it ran may have come too late.
            file.dirty = [dirty for dirty in file.dirty if dirty[2] >= begin]
            if file.named_in:
                folder, undo = file.named_in
                steps = self.folder(folder).steps
                if undo in steps:
                    del steps[:steps.index(undo) + 1]
                file.named_in = None

    on_fdatasync = on_fsync

    def renamed(self, old, new):
        if not (self.is_here(old) and self.is_here(new)):
            return
        replaces = new in self.files
        below = [path for path in self.files if path.startswith(old + b"/")]
        for path in [old, *below]:
            if path in self.files:
                self.files[new + path[len(old):]] = self.files.pop(path)
        if not replaces:
            self.step(new, ("rename", new, old))

    def on_rename(self, thread, arguments, result, shown, begin):
        self.renamed(plain(arguments[0]), plain(arguments[1]))

    def on_renameat2(self, thread, arguments, result, shown, begin):
        old, new = self.path(arguments[0], arguments[1]), self.path(arguments[2], arguments[3])
        if b"RENAME_EXCHANGE" in arguments[-1]:
            self.files[old], self.files[new] = self.file(new), self.file(old)
        else:
            self.renamed(old, new)

    def on_renameat(self, thread, arguments, result, shown, begin):
        self.on_renameat2(thread, [*arguments, b"0"], result, shown, begin)

    def on_linkat(self, thread, arguments, result, shown, begin):
        old, new = plain(arguments[1]), self.path(arguments[2], arguments[3])
        found = re.match(rb"/proc/self/fd/(\d+)$", old)
        if found:
            # Files without a name are known by what strace shows of their descriptors.
            named = [path for path, number in self.at if number == int(found[1]) and b"/#" in path and path in self.files]
            old = named[-1] if named else old
        if self.is_here(new):
            self.files[new] = self.files.pop(old, None) or self.file(old)
            self.step(new, ("remove", new))

    def on_close(self, thread, arguments, result, shown, begin):
        self.at.pop(self.descriptor(arguments[0]), None)

    def on_unlink(self, thread, arguments, result, shown, begin):
        self.files.pop(plain(arguments[0]), None)

    def on_unlinkat(self, thread, arguments, result, shown, begin):
        self.files.pop(self.path(arguments[0], arguments[1]), None)

    def on_mkdir(self, thread, arguments, result, shown, begin):
        path = plain(arguments[0])
        if self.is_here(path):
            self.step(path, ("tree", path))

    def on_mkdirat(self, thread, arguments, result, shown, begin):
        path = self.path(arguments[0], arguments[1])
        if self.is_here(path):
            self.step(path, ("tree", path))

    # The cut.

    def lose(self, copy, rng):
        """Takes from a copy of the folder what the disk need not have. How much was lost."""
        where = lambda path: os.fsencode(copy) + path[len(self.top):]
        lost = {"bytes": 0, "steps": 0}
        for path, file in self.files.items():
            for offset, length, _ in file.dirty:
                if self.is_here(path) and os.path.isfile(where(path)) and rng.random() < 0.7:
                    with open(where(path), "r+b") as out:
                        size = os.path.getsize(where(path))
                        end = size if length is None else min(size, offset + length)
                        out.seek(offset)
                        out.write(bytes(max(0, end - offset)))
                        lost["bytes"] += max(0, end - offset)
        for folder in self.folders.values():
            stay = rng.randint(0, len(folder.steps)) if rng.random() < 0.8 else 0
            for undo in reversed(folder.steps[stay:]):
                lost["steps"] += self.undo(undo, where)
        return lost

    def undo(self, undo, where):
        kind, path = undo[0], where(undo[1])
        if not os.path.lexists(path):
            return 0
        if kind == "tree":
            shutil.rmtree(path)
        elif kind == "remove" and os.path.isfile(path):
            os.remove(path)
        elif kind == "rename" and not os.path.lexists(where(undo[2])):
            os.rename(path, where(undo[2]))
        return 1
