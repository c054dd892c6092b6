// Sets up the log: spdlog, one line an event, on standard error.
//
// Purpose. All of iovad logs through spdlog's default logger; this gives it its
// level and its form. Text is for people; JSON gives one object a line with the
// keys time (RFC 3339, UTC), level, pid, thread and message.
//
// Thread safety. Call it before other threads log.
#ifndef IOVAD_SERVER_LOGGING_H_
#define IOVAD_SERVER_LOGGING_H_

#include <string>
#include <string_view>

#include "server/config.h"

namespace iovad {

void SetUpLogging(LogLevel level, LogFormat format);

// `text` as a JSON string, quotes included. Bytes that are not valid UTF-8
// become U+FFFD, so that a line is always valid JSON.
std::string JsonQuote(std::string_view text);

}  // namespace iovad

#endif  // IOVAD_SERVER_LOGGING_H_
