"""Syscalls that node:fs lacks, for the driver tests: `python3 syscalls.py NAME ARGUMENT…` prints one JSON value."""

import ctypes, errno, fcntl, json, mmap, os, struct, sys

libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def tmpfile(directory, name):
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"nameless")
    links = os.fstat(fd).st_nlink
    check(libc.linkat(-100, b"/proc/self/fd/%d" % fd, -100, os.path.join(directory, name).encode(), 0x400))
    return [links, os.fstat(fd).st_nlink, os.pread(fd, 100, 0).decode()]


def rename2(source, target, flags):
    check(libc.renameat2(-100, source.encode(), -100, target.encode(), int(flags)))


def fallocate(path, mode, offset, length):
    fd = os.open(path, os.O_RDWR)
    check(libc.fallocate(fd, int(mode), ctypes.c_long(int(offset)), ctypes.c_long(int(length))))
    return os.fstat(fd).st_size


def seek(path, offset):
    fd = os.open(path, os.O_RDONLY)
    return [os.lseek(fd, int(offset), os.SEEK_DATA), os.lseek(fd, int(offset), os.SEEK_HOLE)]


def copy_range(source, target, length):
    a, b = os.open(source, os.O_RDONLY), os.open(target, os.O_RDWR | os.O_CREAT)
    return os.copy_file_range(a, b, int(length))


def xattrs(path):
    found = []
    os.setxattr(path, "user.a", b"one")
    os.setxattr(path, "user.empty", b"")
    found.append(os.getxattr(path, "user.a").decode())
    found.append(sorted(os.listxattr(path)))
    for call in (
        lambda: os.setxattr(path, "user.a", b"x", os.XATTR_CREATE),
        lambda: os.setxattr(path, "user.none", b"x", os.XATTR_REPLACE),
        lambda: os.getxattr(path, "user.none"),
        lambda: check(libc.getxattr(path.encode(), b"user.a", ctypes.create_string_buffer(2), 2)),
        lambda: os.removexattr(path, "user.none"),
    ):
        try:
            call()
            found.append("ok")
        except OSError as error:
            found.append(errno.errorcode[error.errno])
    found.append(check(libc.getxattr(path.encode(), b"user.a", None, 0)))
    os.setxattr(path, "user.big", b"x" * 60000)
    found.append(len(os.getxattr(path, "user.big")))
    os.removexattr(path, "user.a")
    found.append(sorted(os.listxattr(path)))
    return found


def in_child(call):
    """Runs `call` in a forked child; its errno name, or ok."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            call()
            os.write(writer, b"ok")
        except OSError as error:
            os.write(writer, errno.errorcode[error.errno].encode())
        os._exit(0)
    os.close(writer)
    answer = os.read(reader, 100).decode()
    os.wait()
    return answer


def locks(path):
    found = []
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
    other = lambda start: lambda: fcntl.lockf(os.open(path, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 10, start)
    found.append(in_child(other(0)))
    found.append(in_child(other(15)))

    def getlk():
        got = fcntl.fcntl(os.open(path, os.O_RDWR), fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        kind, whence, start, length, pid = struct.unpack("hhqqi4x", got)
        assert (kind, start, length, pid) == (fcntl.F_WRLCK, 5, 10, os.getppid()), (kind, start, length, pid)

    found.append(in_child(getlk))
    os.close(os.open(path, os.O_RDWR))
    found.append(in_child(other(0)))
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    flock = lambda: fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_SH | fcntl.LOCK_NB)
    found.append(in_child(flock))
    os.close(fd)
    found.append(in_child(flock))
    return found


def mapping(path):
    with open(path, "w+b") as file:
        file.truncate(100_000)
        view = mmap.mmap(file.fileno(), 100_000)
        view[50_000:50_005] = b"hello"
        view.flush()
        view.close()
    with open(path, "rb") as file:
        file.seek(50_000)
        return file.read(5).decode()


def times(path):
    os.utime(path, ns=(-1_500_000_001, 4_000_000_000_123_456_789))
    status = os.stat(path)
    return [str(status.st_atime_ns), str(status.st_mtime_ns)]


def interrupted_stat(path):
    """A handled signal must not end a stat of a slow file; afterwards SIGKILL must."""
    import signal

    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.05)
    os.stat(path)


def lock_wait(path):
    """F_SETLKW ends with EINTR at a handled signal."""
    import signal

    def alarm(*_):
        raise InterruptedError(errno.EINTR, "alarm")

    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.lockf(fd, fcntl.LOCK_EX)

    def wait():
        signal.signal(signal.SIGALRM, alarm)
        signal.alarm(1)
        fcntl.lockf(os.open(path, os.O_RDWR), fcntl.LOCK_EX)

    return in_child(wait)


def listing(directory):
    seen = os.listdir(directory)
    return [len(seen), len(set(seen))]


def fsync_directory(directory):
    os.fsync(os.open(directory, os.O_RDONLY | os.O_DIRECTORY))


def hold(path):
    fd = os.open(path, os.O_RDONLY)
    print(json.dumps("held"), flush=True)
    sys.stdin.read()
    try:
        os.fsync(fd)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]


try:
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
except OSError as error:
    print(json.dumps({"errno": errno.errorcode[error.errno]}))
