/* janus_edge.h of ABI 1 as it was before je_options, je_request and je_event grew. Frozen: programs were built with it, and
 * they must go on working. */
#ifndef JANUS_EDGE_H
#define JANUS_EDGE_H

#include <stddef.h>
#include <stdint.h>

typedef struct je_session je_session;
typedef struct je_job je_job;
typedef int32_t je_status;
enum { JE_OK = 0, JE_DONE = 1 };
enum { JE_EVENT_PROGRESS = 0, JE_EVENT_TEXT = 1, JE_EVENT_PREVIEW = 2, JE_EVENT_IMAGE = 3 };

typedef struct {
    const uint8_t *pixels;
    int32_t width, height, stride, channels;
} je_image;

typedef struct {
    uint32_t size;
    int32_t num_threads;
    const char *onnxruntime;
} je_options;

typedef struct {
    uint32_t size;
    int32_t task;
    const char *prompt;
    uint64_t seed;
    double temperature;
    double top_p;
    const char *const *more_prompts;
    size_t num_more_prompts;
    int32_t num_images;
    int32_t previews;
} je_request;

typedef struct {
    uint32_t size;
    int32_t kind;
    double elapsed_ms;
    int64_t done, total;
    const char *unit;
    const char *text;
    size_t text_length;
    int64_t index;
    uint64_t seed;
    je_image image;
} je_event;

const char *je_error(void);
void je_options_init(je_options *options, uint32_t size);
je_status je_session_open(const char *bundle, const je_options *options, je_session **engine);
void je_session_close(je_session *engine);
void je_request_init(je_request *request, uint32_t size);
je_status je_job_start(je_session *engine, const je_request *request, je_job **job);
je_status je_job_next(je_job *job, je_event *event);
void je_job_free(je_job *job);

#endif
