#include "intaglio_driver.h"

#include <stddef.h>

#define FIELD(word, name) (((word) & name##_MASK) >> name##_SHIFT)
#define BOTH_EVENTS (INTAGLIO_INTERRUPT_STATUS_DONE_MASK | INTAGLIO_INTERRUPT_STATUS_FAILED_MASK)
#define BOTH_ENABLES (INTAGLIO_INTERRUPT_ENABLE_DONE_MASK | INTAGLIO_INTERRUPT_ENABLE_FAILED_MASK)
#define PAGE 4096u

static enum intaglio_status get(const struct intaglio_device *device, uint32_t address,
                                uint32_t *value)
{
    return device->read32(device->context, address, value) ? INTAGLIO_ACCESS : INTAGLIO_OK;
}

static enum intaglio_status set(const struct intaglio_device *device, uint32_t address,
                                uint32_t value)
{
    return device->write32(device->context, address, value) ? INTAGLIO_ACCESS : INTAGLIO_OK;
}

enum intaglio_status intaglio_check(const struct intaglio_device *device)
{
    const uint32_t needed = INTAGLIO_VERSION;
    uint32_t word = 0;

    if (get(device, INTAGLIO_IDENTITY_REG, &word))
        return INTAGLIO_ACCESS;
    if (word != INTAGLIO_IDENTITY)
        return INTAGLIO_IDENTITY_BAD;
    if (get(device, INTAGLIO_VERSION_REG, &word))
        return INTAGLIO_ACCESS;
    if (FIELD(word, INTAGLIO_VERSION_MAJOR) != FIELD(needed, INTAGLIO_VERSION_MAJOR) ||
        FIELD(word, INTAGLIO_VERSION_MINOR) < FIELD(needed, INTAGLIO_VERSION_MINOR))
        return INTAGLIO_VERSION_BAD;
    if (get(device, INTAGLIO_CONFIG_REG, &word))
        return INTAGLIO_ACCESS;
    return word == device->config ? INTAGLIO_OK : INTAGLIO_CONFIG_BAD;
}

enum intaglio_status intaglio_start(const struct intaglio_device *device,
                                    const struct intaglio_program *program)
{
    const struct {
        uint32_t address, value;
    } writes[] = {
        {INTAGLIO_MEMORY_BASE_REG, device->memory_base},
        {INTAGLIO_MEMORY_BYTES_REG, program->memory_bytes},
        {INTAGLIO_PROGRAM_BASE_REG, program->base},
        {INTAGLIO_PROGRAM_LENGTH_REG, program->length},
        {INTAGLIO_CYCLE_LIMIT_REG, program->cycle_limit},
        {INTAGLIO_INTERRUPT_STATUS_REG, BOTH_EVENTS},
        {INTAGLIO_INTERRUPT_ENABLE_REG, BOTH_ENABLES},
        {INTAGLIO_CONTROL_REG, INTAGLIO_CONTROL_START_MASK},
    };
    uint32_t status = 0;
    size_t i;

    if (device->memory_base % PAGE)
        return INTAGLIO_ARGUMENT;
    if (get(device, INTAGLIO_STATUS_REG, &status))
        return INTAGLIO_ACCESS;
    if (FIELD(status, INTAGLIO_STATUS_BUSY))
        return INTAGLIO_BUSY;
    for (i = 0; i < sizeof writes / sizeof *writes; i++)
        if (set(device, writes[i].address, writes[i].value))
            return INTAGLIO_ACCESS;
    return INTAGLIO_OK;
}

enum intaglio_status intaglio_wait(const struct intaglio_device *device,
                                   struct intaglio_outcome *outcome)
{
    uint32_t events = 0, status = 0, error = 0, i;

    if (device->wait_interrupt(device->context))
        return INTAGLIO_NO_INTERRUPT;
    if (get(device, INTAGLIO_INTERRUPT_STATUS_REG, &events) ||
        set(device, INTAGLIO_INTERRUPT_STATUS_REG, BOTH_EVENTS) ||
        get(device, INTAGLIO_STATUS_REG, &status))
        return INTAGLIO_ACCESS;
    if (FIELD(status, INTAGLIO_STATUS_BUSY) || !(events & BOTH_EVENTS) ||
        FIELD(status, INTAGLIO_STATUS_DONE) == FIELD(status, INTAGLIO_STATUS_FAILED))
        return INTAGLIO_STATE;
    outcome->finished = (int)FIELD(status, INTAGLIO_STATUS_DONE);
    if (get(device, INTAGLIO_ERROR_REG, &error) ||
        get(device, INTAGLIO_ERROR_INSTRUCTION_REG, &outcome->error_instruction))
        return INTAGLIO_ACCESS;
    outcome->error = FIELD(error, INTAGLIO_ERROR_CODE);
    for (i = 0; i < INTAGLIO_COUNTERS; i++)
        if (get(device, INTAGLIO_COUNTERS_REG + 4u * i, &outcome->counters[i]))
            return INTAGLIO_ACCESS;
    return INTAGLIO_OK;
}

enum intaglio_status intaglio_run(const struct intaglio_device *device,
                                  const struct intaglio_program *program,
                                  struct intaglio_outcome *outcome)
{
    enum intaglio_status status = intaglio_check(device);

    if (status == INTAGLIO_OK)
        status = intaglio_start(device, program);
    return status == INTAGLIO_OK ? intaglio_wait(device, outcome) : status;
}
