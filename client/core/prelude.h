#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core.h"

/* Constants younger than the C library of the oldest system we build on. */
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif
#ifndef MFD_HUGE_1GB
#define MFD_HUGE_1GB (30U << 26)
#endif

/* The kernel's, which the C library keeps for itself. */
#ifndef SA_RESTORER
#define SA_RESTORER 0x04000000
#endif
