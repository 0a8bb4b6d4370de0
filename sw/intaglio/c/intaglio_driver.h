/* Runs programs on the Intaglio accelerator through its registers.
 *
 * The twin of intaglio_sim.driver in C: the same accesses in the same order. Needs C99 and nothing
 * else; intaglio_regs.h is made from the register table by `intaglio docs`.
 *
 * The caller writes program, parameters and image to memory before intaglio_run, and reads the
 * class map after it; on a machine with caches it cleans and invalidates them.
 */
#ifndef INTAGLIO_DRIVER_H
#define INTAGLIO_DRIVER_H

#include <stdint.h>

#include "intaglio_regs.h"

/* How a call ended. */
enum intaglio_status {
    INTAGLIO_OK = 0,
    INTAGLIO_ACCESS,       /* read32 or write32 failed: SLVERR, or a bus that does not answer */
    INTAGLIO_IDENTITY_BAD, /* this is not an Intaglio accelerator */
    INTAGLIO_VERSION_BAD,  /* its register map is of an incompatible version */
    INTAGLIO_CONFIG_BAD,   /* the program was compiled for another configuration */
    INTAGLIO_ARGUMENT,     /* memory_base is not a multiple of 4096 */
    INTAGLIO_BUSY,         /* a program is running */
    INTAGLIO_NO_INTERRUPT, /* wait_interrupt gave up */
    INTAGLIO_STATE         /* an interrupt, but status and events do not agree */
};

/* How the driver reaches the accelerator. The functions get `context` and return 0 on success. */
struct intaglio_device {
    int (*read32)(void *context, uint32_t address, uint32_t *value);
    int (*write32)(void *context, uint32_t address, uint32_t value);
    int (*wait_interrupt)(void *context); /* until the line is high; not 0 when it took too long */
    void *context;
    uint32_t config;      /* lowest 32 bits of the configuration's digest */
    uint32_t memory_base; /* bus address of memory offset 0, a multiple of 4096 */
};

/* A program in memory; offsets and sizes in bytes. */
struct intaglio_program {
    uint32_t base;         /* of the first instruction, relative to memory_base */
    uint32_t length;       /* instructions, end included */
    uint32_t memory_bytes; /* memory that the program may use */
    uint32_t cycle_limit;  /* cycles after which it is stopped; 0: none */
};

/* How a program ended. */
struct intaglio_outcome {
    int finished;               /* not 0: it reached end */
    uint32_t error;             /* one of INTAGLIO_ERROR_* */
    uint32_t error_instruction; /* index; without meaning unless error is set */
    uint32_t counters[INTAGLIO_COUNTERS];
};

/* Check that this is the accelerator that the program was compiled for. */
enum intaglio_status intaglio_check(const struct intaglio_device *device);

/* Start a program and return at once. */
enum intaglio_status intaglio_start(const struct intaglio_device *device,
                                    const struct intaglio_program *program);

/* Wait for the interrupt and tell how the program ended. */
enum intaglio_status intaglio_wait(const struct intaglio_device *device,
                                   struct intaglio_outcome *outcome);

/* intaglio_check, intaglio_start, intaglio_wait. INTAGLIO_OK says that the machine answered: whether
 * the program reached its end stands in the outcome. */
enum intaglio_status intaglio_run(const struct intaglio_device *device,
                                  const struct intaglio_program *program,
                                  struct intaglio_outcome *outcome);

#endif
