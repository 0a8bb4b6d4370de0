/* Made by `intaglio docs` from the tables in `intaglio.spec`; do not edit. */
#ifndef INTAGLIO_REGS_H
#define INTAGLIO_REGS_H

#define INTAGLIO_IDENTITY 0x41544e49u
#define INTAGLIO_VERSION 0x00010000u
#define INTAGLIO_INSTRUCTION_BYTES 64u

/* Registers: byte offsets. */
#define INTAGLIO_IDENTITY_REG 0x000u /* the letters INTA */
#define INTAGLIO_VERSION_REG 0x004u /* version of the register map and instruction set */
#define INTAGLIO_VERSION_MINOR_SHIFT 0
#define INTAGLIO_VERSION_MINOR_MASK 0x0000ffffu /* compatible additions */
#define INTAGLIO_VERSION_MAJOR_SHIFT 16
#define INTAGLIO_VERSION_MAJOR_MASK 0xffff0000u /* incompatible changes */
#define INTAGLIO_LANES_REG 0x008u /* lanes of this machine */
#define INTAGLIO_LANES_R_SHIFT 0
#define INTAGLIO_LANES_R_MASK 0x000000ffu /* reduction lanes, bytes of a vector and of the bus */
#define INTAGLIO_LANES_K_SHIFT 8
#define INTAGLIO_LANES_K_MASK 0x0000ff00u /* output lanes */
#define INTAGLIO_LANES_DRAIN_LANES_SHIFT 16
#define INTAGLIO_LANES_DRAIN_LANES_MASK 0x00ff0000u /* lanes of the vector unit */
#define INTAGLIO_CONFIG_REG 0x00cu /* lowest 32 bits of the configuration's digest */
#define INTAGLIO_CONTROL_REG 0x010u /* actions */
#define INTAGLIO_CONTROL_START_SHIFT 0
#define INTAGLIO_CONTROL_START_MASK 0x00000001u /* start the program; ignored while busy */
#define INTAGLIO_CONTROL_STOP_SHIFT 1
#define INTAGLIO_CONTROL_STOP_MASK 0x00000002u /* stop as soon as the bus allows, error NONE, failed */
#define INTAGLIO_STATUS_REG 0x014u /* state */
#define INTAGLIO_STATUS_BUSY_SHIFT 0
#define INTAGLIO_STATUS_BUSY_MASK 0x00000001u /* running */
#define INTAGLIO_STATUS_DONE_SHIFT 1
#define INTAGLIO_STATUS_DONE_MASK 0x00000002u /* the last program reached end */
#define INTAGLIO_STATUS_FAILED_SHIFT 2
#define INTAGLIO_STATUS_FAILED_MASK 0x00000004u /* the last program stopped with an error */
#define INTAGLIO_ERROR_REG 0x018u /* why the last program failed */
#define INTAGLIO_ERROR_CODE_SHIFT 0
#define INTAGLIO_ERROR_CODE_MASK 0x000000ffu /* see the error codes */
#define INTAGLIO_ERROR_INSTRUCTION_REG 0x01cu /* index of the instruction that caused the error */
#define INTAGLIO_INTERRUPT_ENABLE_REG 0x020u /* which events raise the interrupt */
#define INTAGLIO_INTERRUPT_ENABLE_DONE_SHIFT 0
#define INTAGLIO_INTERRUPT_ENABLE_DONE_MASK 0x00000001u /* the program reached end */
#define INTAGLIO_INTERRUPT_ENABLE_FAILED_SHIFT 1
#define INTAGLIO_INTERRUPT_ENABLE_FAILED_MASK 0x00000002u /* the program stopped with an error */
#define INTAGLIO_INTERRUPT_STATUS_REG 0x024u /* events since they were cleared */
#define INTAGLIO_INTERRUPT_STATUS_DONE_SHIFT 0
#define INTAGLIO_INTERRUPT_STATUS_DONE_MASK 0x00000001u /* the program reached end */
#define INTAGLIO_INTERRUPT_STATUS_FAILED_SHIFT 1
#define INTAGLIO_INTERRUPT_STATUS_FAILED_MASK 0x00000002u /* the program stopped with an error */
#define INTAGLIO_PROGRAM_BASE_REG 0x028u /* byte offset of the program in memory, a multiple of 64 */
#define INTAGLIO_PROGRAM_LENGTH_REG 0x02cu /* instructions in the program, end included */
#define INTAGLIO_MEMORY_BASE_REG 0x030u /* bus address of memory offset 0, a multiple of 4096 */
#define INTAGLIO_MEMORY_BYTES_REG 0x034u /* bytes of memory that the program may use, a multiple of R */
#define INTAGLIO_CYCLE_LIMIT_REG 0x038u /* cycles after which the machine stops with TIMEOUT; 0: no limit */
#define INTAGLIO_CYCLES_REG 0x080u /* cycles from start until the machine stopped */
#define INTAGLIO_ARRAY_BUSY_REG 0x084u /* cycles in which the array multiplied a vector (padding positions included) */
#define INTAGLIO_ARRAY_WAIT_LOAD_REG 0x088u /* cycles in which the array unit had an instruction that waited for a token from load */
#define INTAGLIO_ARRAY_WAIT_VECTOR_REG 0x08cu /* the same, for a token from vector (and none missing from load) */
#define INTAGLIO_VECTOR_BUSY_REG 0x090u /* cycles in which the vector unit was running an instruction */
#define INTAGLIO_VECTOR_WAIT_LOAD_REG 0x094u /* cycles in which the vector unit waited for a token from load */
#define INTAGLIO_VECTOR_WAIT_ARRAY_REG 0x098u /* the same, for a token from array (and none missing from load) */
#define INTAGLIO_VECTOR_WAIT_STORE_REG 0x09cu /* the same, for a token from store (and none missing from load, array) */
#define INTAGLIO_LOAD_BUSY_REG 0x0a0u /* cycles in which the load unit was running an instruction */
#define INTAGLIO_LOAD_WAIT_REG 0x0a4u /* cycles in which the load unit waited for a token */
#define INTAGLIO_STORE_BUSY_REG 0x0a8u /* cycles in which the store unit was running an instruction */
#define INTAGLIO_STORE_WAIT_REG 0x0acu /* cycles in which the store unit waited for a token */
#define INTAGLIO_READ_BEATS_REG 0x0b0u /* beats read from memory by load, each R bytes */
#define INTAGLIO_WRITE_BEATS_REG 0x0b4u /* beats written to memory */
#define INTAGLIO_FETCH_BEATS_REG 0x0b8u /* beats of instructions read from memory */
#define INTAGLIO_INSTRUCTIONS_REG 0x0bcu /* instructions that have finished, end not counted */

/* The counters stand one behind the other, in the order above. */
#define INTAGLIO_COUNTERS 16u
#define INTAGLIO_COUNTERS_REG 0x080u

/* Errors. */
#define INTAGLIO_ERROR_NONE 0u /* none */
#define INTAGLIO_ERROR_OPCODE 1u /* unknown opcode, or a reserved bit that is set */
#define INTAGLIO_ERROR_FIELD 2u /* a field outside the range that its table gives */
#define INTAGLIO_ERROR_BUFFER 3u /* an access outside a scratchpad or accumulator bank */
#define INTAGLIO_ERROR_MEMORY 4u /* an access outside the memory, or a misaligned address */
#define INTAGLIO_ERROR_BUS 5u /* the memory bus answered with an error */
#define INTAGLIO_ERROR_DEADLOCK 6u /* every unit waits for a token that nobody can signal */
#define INTAGLIO_ERROR_TOKEN 7u /* a token counter overflowed, or an instruction waits for or signals its own unit */
#define INTAGLIO_ERROR_PROGRAM 8u /* the program ended without ``end``, or its base or length is not usable */
#define INTAGLIO_ERROR_TIMEOUT 9u /* more cycles than the register ``cycle_limit`` allows */

#endif
