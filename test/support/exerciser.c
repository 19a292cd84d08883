/*
 * Random operations on one file, compared byte for byte with a copy in memory (the idea of fsx).
 *
 *   exerciser SEED OPERATIONS BYTES_MAX FLAGS PATH...
 *
 * More than one PATH: the same file through several mounts; the file is closed on one before it is opened on
 * the next, which is when the next must see everything. FLAGS: "d" half of the reads and writes go through
 * O_DIRECT (aligned); "k" keeps one long mapping over opens and closes; "-" none.
 *
 * Everything follows from the seed. The first difference ends the program with 1 and says which operation, where,
 * and the operations before it. Operations that the file system refuses with EOPNOTSUPP are left out.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HISTORY_MAX = 40, LINE_BYTES = 120, BLOCK = 4096, PATHS_MAX = 4 };

static uint64_t state;
static char history[HISTORY_MAX][LINE_BYTES];
static long step;
static unsigned char *good, *scratch;
static size_t size, max_bytes;
static const char *paths[PATHS_MAX];
static int path_count, at, fd = -1, direct = -1, use_direct, keep_mapping;
static unsigned char *kept;

static uint64_t next(void) {
  uint64_t z = (state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
static size_t below(size_t limit) { return limit == 0 ? 0 : next() % limit; }

static void note(const char *format, ...) {
  va_list values;
  va_start(values, format);
  int used = snprintf(history[step % HISTORY_MAX], LINE_BYTES, "%ld: ", step);
  vsnprintf(history[step % HISTORY_MAX] + used, LINE_BYTES - used, format, values);
  va_end(values);
}

static void fail(const char *format, ...) {
  int error = errno;
  va_list values;
  va_start(values, format);
  for (long i = step >= HISTORY_MAX ? step - HISTORY_MAX + 1 : 0; i <= step; i++) puts(history[i % HISTORY_MAX]);
  vprintf(format, values);
  va_end(values);
  printf(" (errno %d %s)\n", error, strerror(error));
  exit(1);
}

static void compare(const unsigned char *found, size_t offset, size_t length, const char *how) {
  if (memcmp(found, good + offset, length) == 0) return;
  size_t first = 0, last = length - 1;
  while (found[first] == good[offset + first]) first++;
  while (found[last] == good[offset + last]) last--;
  fail("%s %zu+%zu: bytes %zu to %zu differ, first is %02x and should be %02x", how, offset, length,
       offset + first, offset + last, found[first], good[offset + first]);
}

static void check_size(void) {
  struct stat found;
  if (fstat(fd, &found) != 0) fail("fstat");
  if ((size_t)found.st_size != size) fail("size is %lld and should be %zu", (long long)found.st_size, size);
}

static void open_all(void) {
  fd = open(paths[at], O_RDWR | O_CREAT, 0644);
  if (fd < 0) fail("open %s", paths[at]);
  if (use_direct && (direct = open(paths[at], O_RDWR | O_DIRECT)) < 0) fail("open O_DIRECT");
  if (keep_mapping && path_count == 1 && kept == NULL) {
    kept = mmap(NULL, max_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (kept == MAP_FAILED) fail("mmap");
  }
}
static void close_all(void) {
  if (direct >= 0 && close(direct) != 0) fail("close");
  if (close(fd) != 0) fail("close");
  direct = -1;
}

/* An end of the file, a block's edge, or anywhere; then a length, mostly short. */
static size_t offset_within(size_t limit) {
  size_t offset;
  switch (below(6)) {
    case 0: offset = size; break;
    case 1: offset = below(limit) & ~(size_t)(BLOCK - 1); break;
    case 2: offset = (below(limit) & ~(size_t)(BLOCK - 1)) + 1; break;
    case 3: offset = below(2 * BLOCK); break;
    default: offset = below(limit);
  }
  return offset > limit ? limit : offset;
}
static size_t length_within(size_t limit) {
  static const size_t classes[] = {16, 600, BLOCK, 3 * BLOCK, 70000, 300000};
  size_t length = 1 + below(classes[below(6)]);
  if (below(6) == 0) length = (length + BLOCK - 1) & ~(size_t)(BLOCK - 1);
  return length > limit ? limit : length;
}

static void fill(size_t length) {
  unsigned char first = (unsigned char)next();
  for (size_t i = 0; i < length; i++) scratch[i] = (unsigned char)(first + i * 7 + (i >> 8));
}
static void grew(size_t end) {
  if (end > size) size = end;
}
static int is_direct(size_t *offset, size_t *length) {
  if (direct < 0 || below(2) == 0) return 0;
  *offset &= ~(size_t)(BLOCK - 1);
  *length = (*length + BLOCK - 1) & ~(size_t)(BLOCK - 1);
  return *offset + *length <= max_bytes;
}

static void do_write(size_t offset, size_t length) {
  int through = is_direct(&offset, &length);
  if (offset + length > max_bytes) length = max_bytes - offset;
  if (length == 0) return;
  fill(length);
  note("%swrite %zu+%zu", through ? "direct " : "", offset, length);
  ssize_t done = pwrite(through ? direct : fd, scratch, length, offset);
  if (done != (ssize_t)length) fail("write answered %zd", done);
  memcpy(good + offset, scratch, length);
  grew(offset + length);
}
static void do_read(size_t offset, size_t length) {
  int through = is_direct(&offset, &length);
  size_t expected = offset >= size ? 0 : length < size - offset ? length : size - offset;
  note("%sread %zu+%zu", through ? "direct " : "", offset, length);
  ssize_t done = pread(through ? direct : fd, scratch, length, offset);
  if (done != (ssize_t)expected) fail("read answered %zd and should %zu", done, expected);
  if (expected > 0) compare(scratch, offset, expected, "read");
}
static void do_truncate(size_t length) {
  note("truncate %zu (was %zu)", length, size);
  if (ftruncate(fd, length) != 0) fail("ftruncate");
  if (length < size) memset(good + length, 0, size - length);
  size = length;
}
static void do_map(size_t offset, size_t length, int writes) {
  if (size == 0) return;
  if (offset >= size) offset = below(size);
  if (length > size - offset) length = size - offset;
  size_t start = offset & ~(size_t)(BLOCK - 1);
  int use_kept = kept != NULL && below(2) == 0;
  note("%smap%s %zu+%zu", use_kept ? "kept " : "", writes ? "write" : "read", offset, length);
  unsigned char *memory = use_kept ? kept + start
    : mmap(NULL, offset - start + length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, start);
  if (memory == MAP_FAILED) fail("mmap");
  if (writes) {
    fill(length);
    memcpy(memory + offset - start, scratch, length);
    memcpy(good + offset, scratch, length);
    if (below(2) == 0 && msync(memory, offset - start + length, MS_SYNC) != 0) fail("msync");
  } else {
    compare(memory + offset - start, offset, length, "mapping");
    /* Beyond the end of the file the last page is zeros. */
    size_t tail = (size + BLOCK - 1) & ~(size_t)(BLOCK - 1);
    if (offset + length == size && !use_kept)
      for (size_t i = size; i < tail; i++)
        if (memory[i - start] != 0) fail("byte %zu beyond the end is %02x", i, memory[i - start]);
  }
  if (!use_kept && munmap(memory, offset - start + length) != 0) fail("munmap");
}
static void do_allocate(size_t offset, size_t length, int mode) {
  if (length == 0) return;
  note("fallocate %d %zu+%zu", mode, offset, length);
  if (fallocate(fd, mode, offset, length) != 0) {
    if (errno == EOPNOTSUPP) return;
    fail("fallocate");
  }
  size_t end = offset + length < size ? offset + length : size;
  if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) && end > offset) memset(good + offset, 0, end - offset);
  if (!(mode & FALLOC_FL_KEEP_SIZE)) grew(offset + length);
}
static void do_copy(size_t from, size_t to, size_t length) {
  if (size == 0) return;
  if (from >= size) from = below(size);
  if (length > size - from) length = size - from;
  if (to + length > max_bytes) length = max_bytes - to;
  if (length == 0 || (from < to + length && to < from + length)) return;
  note("copy %zu+%zu to %zu", from, length, to);
  for (size_t done = 0; done < length;) {
    off_t source = from + done, target = to + done;
    ssize_t copied = copy_file_range(fd, &source, fd, &target, length - done, 0);
    if (copied <= 0) fail("copy_file_range answered %zd", copied);
    done += copied;
  }
  memmove(good + to, good + from, length);
  grew(to + length);
}
/* SEEK_DATA and SEEK_HOLE: what is called a hole reads as zeros, and answers are in order. */
static void do_seek(void) {
  off_t position = 0;
  note("seek through");
  while ((size_t)position < size) {
    off_t data = lseek(fd, position, SEEK_DATA);
    if (data < 0 && errno != ENXIO) fail("SEEK_DATA");
    size_t hole_end = data < 0 ? size : (size_t)data;
    for (size_t i = position; i < hole_end; i++)
      if (good[i] != 0) fail("SEEK_DATA from %lld skipped data at %zu", (long long)position, i);
    if (data < 0) return;
    position = lseek(fd, data, SEEK_HOLE);
    if (position <= data) fail("SEEK_HOLE from %lld answered %lld", (long long)data, (long long)position);
  }
}

static void one(void) {
  size_t offset = offset_within(max_bytes - 1), length = length_within(max_bytes - offset);
  switch (below(20)) {
    case 0: case 1: case 2: do_write(offset, length); break;
    case 3: do_write(size < max_bytes ? size : 0, length_within(max_bytes - size)); break;
    case 4: case 5: case 6: do_read(offset, length); break;
    case 7: do_truncate(offset); break;
    case 8: do_truncate(below(size + 1)); break;
    case 9: case 10: do_map(offset, length, 0); break;
    case 11: case 12: do_map(offset, length, 1); break;
    case 13: do_allocate(offset, length, below(2) ? FALLOC_FL_KEEP_SIZE : 0); break;
    case 14: do_allocate(offset, length, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE); break;
    case 15: do_allocate(offset, length, FALLOC_FL_ZERO_RANGE | (below(2) ? FALLOC_FL_KEEP_SIZE : 0)); break;
    case 16: do_copy(offset, offset_within(max_bytes - 1), length); break;
    case 17:
      note("fsync, drop cache");
      if ((below(2) ? fsync(fd) : fdatasync(fd)) != 0) fail("fsync");
      posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
      break;
    case 18:
      close_all();
      at = (at + 1 + below(path_count)) % path_count;
      note("close, open %s", paths[at]);
      open_all();
      break;
    case 19: if (below(4) == 0) do_seek(); break;
  }
}

int main(int count, char **words) {
  if (count < 6) return fprintf(stderr, "usage: exerciser SEED OPERATIONS BYTES_MAX FLAGS PATH...\n"), 2;
  setvbuf(stdout, NULL, _IOLBF, 0);
  state = strtoull(words[1], NULL, 10);
  long operations = atol(words[2]);
  max_bytes = strtoull(words[3], NULL, 10);
  use_direct = strchr(words[4], 'd') != NULL;
  keep_mapping = strchr(words[4], 'k') != NULL;
  for (int i = 5; i < count && path_count < PATHS_MAX; i++) paths[path_count++] = words[i];
  good = calloc(1, max_bytes + BLOCK);
  if (good == NULL || posix_memalign((void **)&scratch, BLOCK, max_bytes + BLOCK) != 0) return 2;
  unlink(paths[0]);
  open_all();
  for (step = 1; step <= operations; step++) {
    one();
    check_size();
    if (step % 500 == 0) {
      ssize_t done = pread(fd, scratch, size + 1, 0);
      if (done != (ssize_t)size) fail("the whole file is %zd and should be %zu", done, size);
      if (size > 0) compare(scratch, 0, size, "the whole");
    }
  }
  close_all();
  printf("seed %s: %ld operations agree\n", words[1], operations);
  return 0;
}
