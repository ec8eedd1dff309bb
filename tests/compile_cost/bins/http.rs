//! A service of HTTP behind the layer, with types of its own for the body and the error of a response.

macro_rules! service_of {
    ($name:ident, $number:ty, $error:ty) => {
        mod $name {
            use std::future::poll_fn;
            use std::pin::{Pin, pin};
            use std::task::{Context, Poll};

            use ::http::{Request, Response};
            use bytes::Bytes;
            use http_body::{Body, Frame};
            use larder::Cache;
            use larder_http::CacheLayer;
            use tower::{Layer, Service, service_fn};

            struct Number(Option<$number>);

            impl Body for Number {
                type Data = Bytes;
                type Error = $error;

                fn poll_frame(
                    mut self: Pin<&mut Self>,
                    _: &mut Context<'_>,
                ) -> Poll<Option<Result<Frame<Bytes>, $error>>> {
                    let number = self.0.take();
                    Poll::Ready(number.map(|number| Ok(Frame::data(number.to_string().into()))))
                }
            }

            async fn answer(request: Request<Number>) -> Result<Response<Number>, $error> {
                Ok(Response::new(request.into_body()))
            }

            pub(super) async fn run() -> Result<(), Box<dyn std::error::Error>> {
                let layer = CacheLayer::new(Cache::builder(stringify!($name)))?;
                let mut service = layer.layer(service_fn(answer));
                let response = service.call(Request::new(Number(Some(3)))).await?;
                let mut body = pin!(response.into_body());
                while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
                    frame?;
                }
                Ok(())
            }
        }
    };
}
