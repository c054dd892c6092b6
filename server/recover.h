// iovad --recover: saving what is intact of a damaged state.
#ifndef IOVAD_SERVER_RECOVER_H_
#define IOVAD_SERVER_RECOVER_H_

#include "server/config.h"

namespace iovad {

// Prints what was saved, where the damaged file is now, and everything that was lost.
// The exit status: 0 when nothing was, 1 when something was, or nothing could be done.
int RunRecover(const Config& config);

}  // namespace iovad

#endif  // IOVAD_SERVER_RECOVER_H_
